// Room Peering.
