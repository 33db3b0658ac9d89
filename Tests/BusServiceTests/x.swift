import BusService
