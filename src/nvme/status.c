/* SPDX-License-Identifier: BSD-3-Clause */
/* Status values in words: Base 4.2.3 with the lists of the NVM (3.1), Key Value and Zoned Namespace Command Sets. */
#include "nvme/nvme.h"

enum {
    GENERIC,
    COMMAND_SPECIFIC,
    MEDIA,
    PATH,
    TYPES,
    VENDOR_TYPE = 7,
    VENDOR_CODES = 0xc0, /* of every type: from here on */
};

static const char *const generic[] = {
    [0x00] = "Successful Completion",
    [0x01] = "Invalid Command Opcode",
    [0x02] = "Invalid Field in Command",
    [0x03] = "Command ID Conflict",
    [0x04] = "Data Transfer Error",
    [0x05] = "Commands Aborted due to Power Loss Notification",
    [0x06] = "Internal Error",
    [0x07] = "Command Abort Requested",
    [0x08] = "Command Aborted due to SQ Deletion",
    [0x09] = "Command Aborted due to Failed Fused Command",
    [0x0a] = "Command Aborted due to Missing Fused Command",
    [0x0b] = "Invalid Namespace or Format",
    [0x0c] = "Command Sequence Error",
    [0x0d] = "Invalid SGL Segment Descriptor",
    [0x0e] = "Invalid Number of SGL Descriptors",
    [0x0f] = "Data SGL Length Invalid",
    [0x10] = "Metadata SGL Length Invalid",
    [0x11] = "SGL Descriptor Type Invalid",
    [0x12] = "Invalid Use of Controller Memory Buffer",
    [0x13] = "PRP Offset Invalid",
    [0x14] = "Atomic Write Unit Exceeded",
    [0x15] = "Operation Denied",
    [0x16] = "SGL Offset Invalid",
    [0x18] = "Host Identifier Inconsistent Format",
    [0x19] = "Keep Alive Timer Expired",
    [0x1a] = "Keep Alive Timeout Invalid",
    [0x1b] = "Command Aborted due to Preempt and Abort",
    [0x1c] = "Sanitize Failed",
    [0x1d] = "Sanitize In Progress",
    [0x1e] = "SGL Data Block Granularity Invalid",
    [0x1f] = "Command Not Supported for Queue in CMB",
    [0x20] = "Namespace is Write Protected",
    [0x21] = "Command Interrupted",
    [0x22] = "Transient Transport Error",
    [0x23] = "Command Prohibited by Command and Feature Lockdown",
    [0x24] = "Admin Command Media Not Ready",
    [0x25] = "Invalid Key Tag",
    [0x26] = "Host Dispersed Namespace Support Not Enabled",
    [0x27] = "Host Identifier Not Initialized",
    [0x28] = "Incorrect Key",
    [0x29] = "FDP Disabled",
    [0x2a] = "Invalid Placement Handle List",
    [0x80] = "LBA Out of Range",
    [0x81] = "Capacity Exceeded",
    [0x82] = "Namespace Not Ready",
    [0x83] = "Reservation Conflict",
    [0x84] = "Format In Progress",
    [0x85] = "Invalid Value Size",
    [0x86] = "Invalid Key Size",
    [0x87] = "KV Key Does Not Exist",
    [0x88] = "Unrecovered Error",
    [0x89] = "Key Exists",
};

static const char *const command_specific[] = {
    [0x00] = "Completion Queue Invalid",
    [0x01] = "Invalid Queue Identifier",
    [0x02] = "Invalid Queue Size",
    [0x03] = "Abort Command Limit Exceeded",
    [0x05] = "Asynchronous Event Request Limit Exceeded",
    [0x06] = "Invalid Firmware Slot",
    [0x07] = "Invalid Firmware Image",
    [0x08] = "Invalid Interrupt Vector",
    [0x09] = "Invalid Log Page",
    [0x0a] = "Invalid Format",
    [0x0b] = "Firmware Activation Requires Conventional Reset",
    [0x0c] = "Invalid Queue Deletion",
    [0x0d] = "Feature Identifier Not Saveable",
    [0x0e] = "Feature Not Changeable",
    [0x0f] = "Feature Not Namespace Specific",
    [0x10] = "Firmware Activation Requires NVM Subsystem Reset",
    [0x11] = "Firmware Activation Requires Controller Level Reset",
    [0x12] = "Firmware Activation Requires Maximum Time Violation",
    [0x13] = "Firmware Activation Prohibited",
    [0x14] = "Overlapping Range",
    [0x15] = "Namespace Insufficient Capacity",
    [0x16] = "Namespace Identifier Unavailable",
    [0x18] = "Namespace Already Attached",
    [0x19] = "Namespace Is Private",
    [0x1a] = "Namespace Not Attached",
    [0x1b] = "Thin Provisioning Not Supported",
    [0x1c] = "Controller List Invalid",
    [0x1d] = "Device Self-test In Progress",
    [0x1e] = "Boot Partition Write Prohibited",
    [0x1f] = "Invalid Controller Identifier",
    [0x20] = "Invalid Secondary Controller State",
    [0x21] = "Invalid Number of Controller Resources",
    [0x22] = "Invalid Resource Identifier",
    [0x23] = "Sanitize Prohibited While Persistent Memory Region is Enabled",
    [0x24] = "ANA Group Identifier Invalid",
    [0x25] = "ANA Attach Failed",
    [0x26] = "Insufficient Capacity",
    [0x27] = "Namespace Attachment Limit Exceeded",
    [0x28] = "Prohibition of Command Execution Not Supported",
    [0x29] = "I/O Command Set Not Supported",
    [0x2a] = "I/O Command Set Not Enabled",
    [0x2b] = "I/O Command Set Combination Rejected",
    [0x2c] = "Invalid I/O Command Set",
    [0x2d] = "Identifier Unavailable",
    [0x2e] = "Namespace Is Dispersed",
    [0x2f] = "Invalid Discovery Information",
    [0x30] = "Zoning Data Structure Locked",
    [0x31] = "Zoning Data Structure Not Found",
    [0x32] = "Insufficient Discovery Resources",
    [0x33] = "Requested Function Disabled",
    [0x34] = "ZoneGroup Originator Invalid",
    [0x35] = "Invalid Host",
    [0x36] = "Invalid NVM Subsystem",
    [0x37] = "Invalid Controller Data Queue",
    [0x38] = "Not Enough Resources",
    [0x39] = "Controller Suspended",
    [0x3a] = "Controller Not Suspended",
    [0x3b] = "Controller Data Queue Full",
    [0x7f] = "Stream Resource Allocation Failed",
    [0x80] = "Conflicting Attributes",
    [0x81] = "Invalid Protection Information",
    [0x82] = "Attempted Write to Read Only Range",
    [0x83] = "Command Size Limit Exceeded",
    [0x85] = "Incompatible Namespace or Format",
    [0x86] = "Fast Copy Not Possible",
    [0x87] = "Overlapping I/O Range",
    [0x88] = "Namespace Not Reachable",
    [0x89] = "Insufficient Resources",
    [0x90] = "Discover Restart", /* of Fabrics commands; nothing of the command sets above has these two */
    [0x91] = "Authentication Required",
    [0xb6] = "Invalid Zone Operation Request",
    [0xb7] = "ZRWA Resources Unavailable",
    [0xb8] = "Zoned Boundary Error",
    [0xb9] = "Zone Is Full",
    [0xba] = "Zone Is Read Only",
    [0xbb] = "Zone Is Offline",
    [0xbc] = "Zone Invalid Write",
    [0xbd] = "Too Many Active Zones",
    [0xbe] = "Too Many Open Zones",
    [0xbf] = "Invalid Zone State Transition",
};

/* Of the Connect command, which takes numbers of the NVM Command Set's. */
static const char *const connect_specific[] = {
    [0x80] = "Connect Incompatible Format", [0x81] = "Connect Controller Busy", [0x82] = "Connect Invalid Parameters",
    [0x83] = "Connect Restart Discovery",   [0x84] = "Connect Invalid Host",    [0x85] = "Invalid Queue Type",
};

static const char *const media[] = {
    [0x80] = "Write Fault",
    [0x81] = "Unrecovered Read Error",
    [0x82] = "End-to-end Guard Check Error",
    [0x83] = "End-to-end Application Tag Check Error",
    [0x84] = "End-to-end Reference Tag Check Error",
    [0x85] = "Compare Failure",
    [0x86] = "Access Denied",
    [0x87] = "Deallocated or Unwritten Logical Block",
    [0x88] = "End-to-End Storage Tag Check Error",
};

static const char *const path[] = {
    [0x00] = "Internal Path Error",
    [0x01] = "Asymmetric Access Persistent Loss",
    [0x02] = "Asymmetric Access Inaccessible",
    [0x03] = "Asymmetric Access Transition",
    [0x60] = "Controller Pathing Error",
    [0x70] = "Host Pathing Error",
    [0x71] = "Command Aborted By Host",
};

static const struct {
    const char *const *texts;
    size_t n;
} types[TYPES] = {
    [GENERIC] = {generic, PLX_ARRAY_SIZE(generic)},
    [COMMAND_SPECIFIC] = {command_specific, PLX_ARRAY_SIZE(command_specific)},
    [MEDIA] = {media, PLX_ARRAY_SIZE(media)},
    [PATH] = {path, PLX_ARRAY_SIZE(path)},
};

const char *nvme_status_text(uint16_t status, bool connect)
{
    unsigned type = status >> 8 & 7, code = status & 0xff;
    if (connect && type == COMMAND_SPECIFIC && code < PLX_ARRAY_SIZE(connect_specific) && connect_specific[code])
        return connect_specific[code];
    if (type < TYPES && code < types[type].n && types[type].texts[code])
        return types[type].texts[code];
    return type == VENDOR_TYPE || code >= VENDOR_CODES ? "Vendor Specific" : "unknown status";
}
