/* SPDX-License-Identifier: BSD-3-Clause */
/* Status values in words (Base 4.2.3, NVM 3.1). */
#include "nvme/nvme.h"

static const struct {
    uint16_t status;
    const char *text;
} texts[] =
    {
        {PLX_SC_SUCCESS, "Successful Completion"},
        {PLX_SC_INVALID_OPCODE, "Invalid Command Opcode"},
        {PLX_SC_INVALID_FIELD, "Invalid Field in Command"},
        {PLX_SC_COMMAND_ID_CONFLICT, "Command ID Conflict"},
        {PLX_SC_DATA_TRANSFER_ERROR, "Data Transfer Error"},
        {PLX_SC_INTERNAL_ERROR, "Internal Error"},
        {PLX_SC_ABORTED_BY_REQUEST, "Command Abort Requested"},
        {PLX_SC_ABORTED_SQ_DELETION, "Command Aborted due to SQ Deletion"},
        {PLX_SC_ABORTED_FAILED_FUSED, "Command Aborted due to Failed Fused Command"},
        {PLX_SC_ABORTED_MISSING_FUSED, "Command Aborted due to Missing Fused Command"},
        {PLX_SC_INVALID_NAMESPACE_OR_FORMAT, "Invalid Namespace or Format"},
        {PLX_SC_COMMAND_SEQUENCE_ERROR, "Command Sequence Error"},
        {PLX_SC_KEEP_ALIVE_TIMEOUT_INVALID, "Keep Alive Timeout Invalid"},
        {PLX_SC_NAMESPACE_WRITE_PROTECTED, "Namespace is Write Protected"},
        {PLX_SC_COMMAND_INTERRUPTED, "Command Interrupted"},
        {PLX_SC_TRANSIENT_TRANSPORT_ERROR, "Transient Transport Error"},
        {PLX_SC_LBA_OUT_OF_RANGE, "LBA Out of Range"},
        {PLX_SC_CAPACITY_EXCEEDED, "Capacity Exceeded"},
        {PLX_SC_NAMESPACE_NOT_READY, "Namespace Not Ready"},
        {PLX_SC_RESERVATION_CONFLICT, "Reservation Conflict"},
        {PLX_SC_INVALID_QUEUE_IDENTIFIER, "Invalid Queue Identifier"},
        {PLX_SC_INVALID_LOG_PAGE, "Invalid Log Page"},
        {PLX_SC_WRITE_FAULT, "Write Fault"},
        {PLX_SC_UNRECOVERED_READ_ERROR, "Unrecovered Read Error"},
        {PLX_SC_COMPARE_FAILURE, "Compare Failure"},
        {PLX_SC_ACCESS_DENIED, "Access Denied"},
        {PLX_SC_INTERNAL_PATH_ERROR, "Internal Path Error"},
        {PLX_SC_ANA_PERSISTENT_LOSS, "Asymmetric Access Persistent Loss"},
        {PLX_SC_ANA_INACCESSIBLE, "Asymmetric Access Inaccessible"},
        {PLX_SC_ANA_TRANSITION, "Asymmetric Access Transition"},
        {PLX_SC_CONTROLLER_PATHING_ERROR, "Controller Pathing Error"},
        {PLX_SC_HOST_PATHING_ERROR, "Host Pathing Error"},
        {PLX_SC_COMMAND_ABORTED_BY_HOST, "Command Aborted By Host"},
},
  connect_texts[] = {
      {PLX_SC_CONNECT_INCOMPATIBLE_FORMAT, "Connect Incompatible Format"},
      {PLX_SC_CONNECT_CONTROLLER_BUSY, "Connect Controller Busy"},
      {PLX_SC_CONNECT_INVALID_PARAMETERS, "Connect Invalid Parameters"},
      {PLX_SC_CONNECT_RESTART_DISCOVERY, "Connect Restart Discovery"},
      {PLX_SC_CONNECT_INVALID_HOST, "Connect Invalid Host"},
      {PLX_SC_INVALID_QUEUE_TYPE, "Invalid Queue Type"},
      {PLX_SC_AUTHENTICATION_REQUIRED, "Authentication Required"},
};

const char *nvme_status_text(uint16_t status, bool connect)
{
    status &= 0x7ff;
    for (size_t i = 0; connect && i < PLX_ARRAY_SIZE(connect_texts); i++)
        if (connect_texts[i].status == status)
            return connect_texts[i].text;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(texts); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "unknown status";
}
