print("mobilityctl")
