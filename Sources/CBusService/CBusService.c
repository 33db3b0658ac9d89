#include "CBusService.h"

#include <stddef.h>
#include <systemd/sd-bus.h>

// Defined in Swift, in Sources/BusService/Dispatch.swift.
int mobility_bus_method(sd_bus_message *message, void *userdata, sd_bus_error *error);
int mobility_bus_property(
    sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply, void *userdata,
    sd_bus_error *error);

// For everyone: Swift asks polkit where that is needed. PRIVILEGED is refused by sd-bus unless the caller is root.
#define OPEN SD_BUS_VTABLE_UNPRIVILEGED
#define PRIVILEGED 0
#define CONSTANT SD_BUS_VTABLE_PROPERTY_CONST
#define CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE
// Read it when you want it: a counter changes too often to be announced.
#define COUNTER 0

// The arguments come with commas of their own, so that a shorter macro could not pass them on.
#define CALL mobility_bus_method
#define METHOD SD_BUS_METHOD_WITH_ARGS
#define PROPERTY(name, signature, flags) SD_BUS_PROPERTY(name, signature, mobility_bus_property, 0, flags)
#define CHECKS SD_BUS_RESULT("a(ssbs)", checks)
#define OPTIONS "a{sv}", options

static const sd_bus_vtable manager[] = {
    SD_BUS_VTABLE_START(0),
    METHOD("MigrateUnit", SD_BUS_ARGS("s", unit, "s", node, OPTIONS), SD_BUS_RESULT("o", migration), CALL, OPEN),
    METHOD("CheckUnit", SD_BUS_ARGS("s", unit, "s", node), CHECKS, CALL, OPEN),
    METHOD("DrainNode", SD_BUS_ARGS("s", node, OPTIONS), SD_BUS_RESULT("ao", migrations), CALL, OPEN),
    METHOD("ResolveUnit", SD_BUS_ARGS("s", unit, "s", resolution, "b", other_host_is_off), SD_BUS_NO_RESULT, CALL,
           OPEN),
    METHOD("GetService", SD_BUS_ARGS("s", unit), SD_BUS_RESULT("o", service), CALL, OPEN),
    METHOD("ListServices", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssso)", services), CALL, OPEN),
    METHOD("ListMigrations", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ussso)", migrations), CALL, OPEN),
    METHOD("ListNodes", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sss)", nodes), CALL, OPEN),
    METHOD("MayStart", SD_BUS_ARGS("s", unit), SD_BUS_RESULT("b", allowed, "s", why), CALL, PRIVILEGED),
    METHOD("ClaimAddress", SD_BUS_ARGS("s", unit), SD_BUS_NO_RESULT, CALL, PRIVILEGED),
    METHOD("ReleaseAddress", SD_BUS_ARGS("s", unit), SD_BUS_NO_RESULT, CALL, PRIVILEGED),
    METHOD("Reload", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, CALL, OPEN),
    SD_BUS_SIGNAL_WITH_ARGS("MigrationNew", SD_BUS_ARGS("u", id, "o", migration, "s", unit), 0),
    SD_BUS_SIGNAL_WITH_ARGS("MigrationRemoved", SD_BUS_ARGS("u", id, "o", migration, "s", unit, "s", result), 0),
    SD_BUS_SIGNAL_WITH_ARGS("AddressConflict", SD_BUS_ARGS("s", unit, "s", address, "s", hardware), 0),
    PROPERTY("Version", "s", CONSTANT),
    PROPERTY("NodeName", "s", CONSTANT),
    PROPERTY("Features", "as", CONSTANT),
    SD_BUS_VTABLE_END,
};

static const sd_bus_vtable service[] = {
    SD_BUS_VTABLE_START(0),
    METHOD("Migrate", SD_BUS_ARGS("s", node, OPTIONS), SD_BUS_RESULT("o", migration), CALL, OPEN),
    METHOD("Check", SD_BUS_ARGS("s", node), CHECKS, CALL, OPEN),
    PROPERTY("Unit", "s", CONSTANT),
    PROPERTY("VirtualAddresses", "as", CHANGES),
    PROPERTY("Interface", "s", CHANGES),
    PROPERTY("DNSName", "s", CHANGES),
    PROPERTY("State", "s", CHANGES),
    PROPERTY("Node", "s", CHANGES),
    PROPERTY("ConnectHookAttached", "b", CHANGES),
    PROPERTY("Error", "s", CHANGES),
    SD_BUS_VTABLE_END,
};

static const sd_bus_vtable migration[] = {
    SD_BUS_VTABLE_START(0),
    METHOD("Cancel", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, CALL, OPEN),
    METHOD("Wait", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, CALL, OPEN),
    SD_BUS_SIGNAL_WITH_ARGS("LogMessage", SD_BUS_ARGS("u", priority, "s", line), 0),
    PROPERTY("Id", "u", CONSTANT),
    PROPERTY("Unit", "s", CONSTANT),
    PROPERTY("Source", "s", CONSTANT),
    PROPERTY("Destination", "s", CONSTANT),
    PROPERTY("Phase", "s", CHANGES),
    PROPERTY("Round", "u", COUNTER),
    PROPERTY("BytesTotal", "t", COUNTER),
    PROPERTY("BytesSent", "t", COUNTER),
    PROPERTY("PagesDirty", "t", COUNTER),
    PROPERTY("FrozenUSec", "t", COUNTER),
    PROPERTY("PredictedDowntimeUSec", "t", COUNTER),
    PROPERTY("DowntimeUSec", "t", CHANGES),
    PROPERTY("DowntimeParts", "a(st)", CHANGES),
    PROPERTY("Result", "s", CHANGES),
    PROPERTY("Error", "s", CHANGES),
    SD_BUS_VTABLE_END,
};

static const sd_bus_vtable node[] = {
    SD_BUS_VTABLE_START(0),
    PROPERTY("Name", "s", CONSTANT),
    PROPERTY("Address", "s", CHANGES),
    PROPERTY("State", "s", CHANGES),
    SD_BUS_VTABLE_END,
};

const struct sd_bus_vtable *mobility_manager_vtable(void) { return manager; }
const struct sd_bus_vtable *mobility_service_vtable(void) { return service; }
const struct sd_bus_vtable *mobility_migration_vtable(void) { return migration; }
const struct sd_bus_vtable *mobility_node_vtable(void) { return node; }
