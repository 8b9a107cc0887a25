/* SPDX-License-Identifier: BSD-3-Clause */
/* Short words for the tables of methods. What follows the help are further members. */
#ifndef PLX_RPC_TABLE_H
#define PLX_RPC_TABLE_H

#include "rpc/rpc.h"

#define TEXT(n, h, ...)                                                                                                \
    {                                                                                                                  \
        .name = (n), .type = RPC_STRING, .help = (h), ##__VA_ARGS__                                                    \
    }
#define UUID(n, h, ...)                                                                                                \
    {                                                                                                                  \
        .name = (n), .type = RPC_UUID, .help = (h), ##__VA_ARGS__                                                      \
    }
#define BOOL(n, h, ...)                                                                                                \
    {                                                                                                                  \
        .name = (n), .type = RPC_BOOL, .help = (h), ##__VA_ARGS__                                                      \
    }
#define U8(n, h, ...)                                                                                                  \
    {                                                                                                                  \
        .name = (n), .type = RPC_UINT, .bits = 8, .help = (h), ##__VA_ARGS__                                           \
    }
#define U16(n, h, ...)                                                                                                 \
    {                                                                                                                  \
        .name = (n), .type = RPC_UINT, .bits = 16, .help = (h), ##__VA_ARGS__                                          \
    }
#define U32(n, h, ...)                                                                                                 \
    {                                                                                                                  \
        .name = (n), .type = RPC_UINT, .bits = 32, .help = (h), ##__VA_ARGS__                                          \
    }
#define U64(n, h, ...)                                                                                                 \
    {                                                                                                                  \
        .name = (n), .type = RPC_UINT, .help = (h), ##__VA_ARGS__                                                      \
    }
#define I32(n, h, ...)                                                                                                 \
    {                                                                                                                  \
        .name = (n), .type = RPC_INT, .bits = 32, .help = (h), ##__VA_ARGS__                                           \
    }
#define ENUM(n, v, h, ...)                                                                                             \
    {                                                                                                                  \
        .name = (n), .type = RPC_ENUM, .values = (v), .help = (h), ##__VA_ARGS__                                       \
    }
#define FLAGS(n, v, h, ...)                                                                                            \
    {                                                                                                                  \
        .name = (n), .type = RPC_FLAGS, .values = (v), .help = (h), ##__VA_ARGS__                                      \
    }
#define OBJECT(n, m, h, ...)                                                                                           \
    {                                                                                                                  \
        .name = (n), .type = RPC_OBJECT, .members = (m), .help = (h), ##__VA_ARGS__                                    \
    }
#define OBJECTS(n, m, h, ...)                                                                                          \
    {                                                                                                                  \
        .name = (n), .type = RPC_OBJECTS, .members = (m), .help = (h), ##__VA_ARGS__                                   \
    }
/* What methods of the target have in common. */
#define TARGET ENUM("tgt_name", "nvmf_tgt", "of the target, of which there is one")
#define REQUIRED .required = true
#define INERT .inert = true
#define INIT(v) .init = (v)
#define LIMITS(a, b) .min = (a), .max = (b)
#define END                                                                                                            \
    {                                                                                                                  \
        .name = NULL                                                                                                   \
    }

#endif
