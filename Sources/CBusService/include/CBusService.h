// The tables that describe the bus objects to sd-bus. The macros that build them cannot be imported by Swift.
// Every member leads to one of two functions, which Swift defines; nothing here decides anything.
#pragma once

struct sd_bus_vtable;

const struct sd_bus_vtable *mobility_manager_vtable(void);
const struct sd_bus_vtable *mobility_service_vtable(void);
const struct sd_bus_vtable *mobility_migration_vtable(void);
const struct sd_bus_vtable *mobility_node_vtable(void);
