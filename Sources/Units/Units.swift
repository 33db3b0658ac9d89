// Room Units.
