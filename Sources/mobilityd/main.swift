print("mobilityd")
