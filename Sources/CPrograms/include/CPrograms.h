// The BPF programs, each built into the binary as one object file.
#pragma once
#include "ConnectProgram.h"
#include "HoldProgram.h"
#include "CaptureProgram.h"
#include "ClientsProgram.h"
#include "CongestionProgram.h"
