"""Rows. The only folder that imports SQLAlchemy: functions over a connection, run by `db.Database` one
transaction each.
"""
