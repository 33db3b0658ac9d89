// Shapes shared by hold.bpf.c and, field by field, by Sources/Addressing/HoldMaps.swift. All in host byte order.
#pragma once

// What is done with the packets of one virtual address.
enum {
    HOLD_SYN = 1,    // redirect TCP SYN without ACK to the tap
    HOLD_ALL = 2,    // redirect every IP packet to the tap
    HOLD_SILENT = 4, // nothing that names the address as its owner leaves, nobody is told who has it
    HOLD_ANSWER = 16, // silent, but who asks for the address is told, until another host says that it has it
    HOLD_GAPS = 32,  // TCP segments pass that come before what their connection has received out of order
    HOLD_DRAIN = 8,  // a packet passes as soon as every one before it has passed
};

// Set on a frame that comes back from the tap, taken off again where it passes.
#define HOLD_MARK 0x6d6f6268
// Set by this daemon on segments that it gives to sockets of this host itself: neither held nor silenced.
#define HOLD_PASS 0x6d6f6270

// An address of either family, IPv4 as ::ffff:a.b.c.d.
struct hold_address {
    __u8 bytes[16];
};

// Written by user space, always as a whole; the programs clear HOLD_ANSWER.
struct hold_mode {
    __u32 flags;
    __u32 tap;    // interface index to which held packets go
    __s64 settled; // tickets that will never pass here (handed out, lost at the bound) less frames that had none
};

// Written by the programs only.
struct hold_tally {
    __u64 tickets;  // packets that had to be decided on while holding
    __u64 passed;   // of those, and of injected ones, how many went on to the stack
    __u64 packets;  // redirected to the tap
    __u64 bytes;    // the same in bytes, without Ethernet's preamble and check sum
    __u64 silenced; // packets dropped by HOLD_SILENT
};
