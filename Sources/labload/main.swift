print("labload")
