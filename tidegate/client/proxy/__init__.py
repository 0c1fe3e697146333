"""`tidegate proxy`: a loopback listener for clients that cannot present a certificate; it forwards under its own identity."""
