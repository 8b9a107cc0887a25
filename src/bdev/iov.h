/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PLX_BDEV_IOV_H
#define PLX_BDEV_IOV_H

#include "base/iov.h"

#endif
