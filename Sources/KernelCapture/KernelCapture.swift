// Room KernelCapture.
