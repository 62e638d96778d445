// The parts of the Python module that bindings.cc puts together.
#pragma once

#include <pybind11/pybind11.h>

void bind_step(pybind11::module_& m);
