#include "CEmbryo.h"
