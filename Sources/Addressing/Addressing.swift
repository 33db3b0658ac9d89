// Room Addressing.
