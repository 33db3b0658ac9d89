#pragma once
#include "ProgramBytes.h"

/// The object made from bpf/connect.bpf.c.
struct program_bytes program_connect(void);
