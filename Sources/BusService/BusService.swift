// Room BusService.
