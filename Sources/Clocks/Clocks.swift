// Room Clocks.
