/* SPDX-License-Identifier: BSD-3-Clause */
/* What methods for vhost-user have in common. */
#ifndef PLX_RPC_VHOST_H
#define PLX_RPC_VHOST_H

#include "rpc/rpc.h"

#include <limits.h>

#define VHOST_CTRLR TEXT("ctrlr", "its name, which is that of its socket", REQUIRED, LIMITS(1, 100))

enum { RPC_CORES = 1024 };

/* @return whether there is a server; if not, the call has failed */
bool rpc_vhost_served(struct rpc_call *c);
/* Where a controller's socket is. @return 0, or -EINVAL with err filled */
int rpc_vhost_path(const struct plx_rpc *rpc, const char *name, char out[PATH_MAX], struct plx_error *err);
/* The controller that is called this; or NULL, and the call has failed. */
struct plx_vhost_ctrlr *rpc_vhost_named(struct rpc_call *c, const char *name);

/* ---- vhost_query.c ---- */

void rpc_vhost_list(struct rpc_call *c);

/* ---- vhost_scsi.c ---- */

json_t *rpc_vhost_targets(const struct plx_vhost_ctrlr *ctrlr);
/* The calls that make the units that there are. */
void rpc_vhost_config_units(struct plx_rpc *rpc, const char *name, const json_t *kept, struct rpc_config *list);

#endif
