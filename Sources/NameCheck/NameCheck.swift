// Room NameCheck.
