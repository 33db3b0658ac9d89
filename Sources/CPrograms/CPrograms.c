#include "CPrograms.h"
