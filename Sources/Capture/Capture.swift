// Room Capture.
