print("mobility-generator")
