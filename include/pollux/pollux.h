/* SPDX-License-Identifier: BSD-3-Clause */
/** @file All of Pollux's public API. */
#ifndef POLLUX_POLLUX_H
#define POLLUX_POLLUX_H

#include <pollux/base.h>
#include <pollux/bdev.h>
#include <pollux/bdev_filter.h>
#include <pollux/bdev_nvme.h>
#include <pollux/nvme.h>
#include <pollux/nvme_status.h>
#include <pollux/nvmf.h>
#include <pollux/pci.h>
#include <pollux/pool.h>
#include <pollux/pool_check.h>
#include <pollux/reactor.h>
#include <pollux/rpc.h>
#include <pollux/vhost.h>

#endif
