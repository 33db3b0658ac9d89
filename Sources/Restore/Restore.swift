// Room Restore.
