// What the congestion program is given for a socket.
#pragma once

// Replaced in the object before it is loaded, by one as long.
#define CONGESTION_NAME "mobility_@@@@@@"

struct congestion_window {
    // snd_cwnd and snd_ssthresh, segments.
    __u32 segments, threshold;
    // The congestion control to have from then on.
    char successor[16];
};
