"""Who a party is: keys, certificates, the folder that holds them, documents signed by them, joining and renewal.

Shared by every party. Nothing here knows the broker; ``wire`` alone reads the generated messages.
"""
