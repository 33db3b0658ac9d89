// Room ProcessImage.
