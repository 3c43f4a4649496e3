// Torch headers are slow to read; every unit of this folder shares them precompiled.
#pragma once
#include <ATen/ATen.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
