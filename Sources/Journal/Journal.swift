// Room Journal.
