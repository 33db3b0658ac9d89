// Room Resources.
