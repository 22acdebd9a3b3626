"""The dashboard: pages made on the server, of the same services as the API. Only terminals change things."""
