// Room MobilityClient.
