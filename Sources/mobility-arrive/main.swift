print("mobility-arrive")
