"""The broker: eight rooms and one hall. It keeps no data; it plans, decides, records, and joins what departments send."""
