// Room Migration.
