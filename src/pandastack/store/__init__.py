"""Rows: functions over a connection, run by `db.Database`. The only folder that imports SQLAlchemy."""
