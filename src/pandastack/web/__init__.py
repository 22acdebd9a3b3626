"""The dashboard: pages made on the server, of the same services as the API. They show, and change nothing."""
