// SPDX-License-Identifier: Apache-2.0

#include "events/dropwatch/rules.h"

/**
 * What kfree_skb reports although nothing is lost. Function and reason names are Linux's; `since`
 * and `before` say where kernels differ. docs/events/dropwatch.md lists these rules.
 */
const struct noise_rule noise_rules[] = {
    {
        .name = "fin_consumed",
        .conditions =
            "place=sk_stream_kill_queues reason=QUEUE_PURGE|NOT_SPECIFIED? state=CLOSE flag=FIN "
            "flag=!SYN flag=!RST payload=none direction=rx; "
            "place=skb_queue_purge|skb_queue_purge_reason caller=sk_stream_kill_queues "
            "reason=QUEUE_PURGE|NOT_SPECIFIED? state=CLOSE flag=FIN flag=!SYN flag=!RST "
            "payload=none direction=rx",
        .why = "The peer's FIN has been acted upon; only its empty buffer goes, at every orderly "
               "close. A FIN with data for a socket that is gone is recorded.",
    },
    {
        .name = "time_wait_ack",
        .conditions =
            "place=tcp_v4_rcv|tcp_v6_rcv reason=NOT_SPECIFIED state=TIME_WAIT flag=!SYN "
            "payload=none direction=rx; "
            /* Before 6.11 the kernel does not say which socket it was. */
            "place=tcp_v4_rcv|tcp_v6_rcv reason=NOT_SPECIFIED state=NONE flag=FIN flag=!SYN "
            "payload=none direction=rx",
        .why = "A FIN, RST or late ACK that a TIME_WAIT socket has dealt with. Data or a SYN for "
               "such a socket is recorded.",
    },
    {
        .name = "half_closed_ack",
        .conditions = "place=tcp_rcv_state_process reason=NOT_SPECIFIED "
                      "state=CLOSE_WAIT|CLOSING|LAST_ACK|NONE "
                      "flag=ACK flag=!FIN flag=!SYN flag=!RST flag=!URG payload=none direction=rx; "
                      /* What waited while the socket was in use, and was being closed. */
                      "place=tcp_rcv_state_process reason=TCP_CLOSE state=CLOSE|NONE "
                      "flag=!SYN flag=!RST payload=none direction=rx",
        .why =
            "An ACK from a peer that has closed its side: it has been taken in, and its buffer is "
            "thrown away; or an ACK or FIN that comes when all is closed. Data behind the peer's "
            "FIN is recorded.",
    },
    {
        .name = "probe",
        .conditions = "place=tcp_validate_incoming reason=TCP_OLD_SEQUENCE flag=ACK flag=!FIN "
                      "flag=!SYN flag=!RST flag=!URG payload=none direction=rx",
        .why = "A keep-alive or zero window probe: an empty segment just before the window, which "
               "is answered. A segment beyond the window is recorded.",
    },
    {
        .name = "duplicate",
        .conditions = "reason=TCP_OLD_DATA|TCP_OFOMERGE|TCP_OFO_DROP flag=!SYN flag=!RST "
                      "direction=rx; "
                      "reason=TCP_OLD_SEQUENCE payload=some flag=!SYN flag=!RST direction=rx",
        .why =
            "The kernel has these bytes already: something was sent twice. Where a packet was "
            "lost before, that loss is recorded at its own place, and so is data that the window "
            "has no room for.",
    },
    {
        .name = "late_duplicate",
        .conditions = "reason=NO_SOCKET|TCP_CLOSE received=before payload=some flag=!SYN flag=!RST "
                      "direction=rx; "
                      "reason=NO_SOCKET received=before flag=FIN flag=!SYN flag=!RST direction=rx",
        .why =
            "Sent twice, and the second copy comes after the connection has ended. Bytes that had "
            "not come before are recorded.",
    },
    {
        .name = "late_ack",
        .conditions = "reason=NO_SOCKET received=before payload=none flag=ACK flag=!FIN flag=!SYN "
                      "flag=!RST direction=rx",
        .why =
            "The connection has ended, and all that the peer has ever sent had come before: its "
            "last acknowledgement finds nobody. One for a connection that never was is recorded.",
    },
    {
        .name = "unaccepted_child",
        .conditions = "place=tcp_disconnect|sk_stream_kill_queues|inet_child_forget|"
                      "skb_rbtree_purge|skb_queue_purge|skb_queue_purge_reason "
                      "caller=inet_child_forget direction=rx",
        .why = "A listener is closed while connections wait to be accepted. Unread data of a "
               "connection that was accepted and is taken down is recorded.",
    },
    {
        .name = "fin_ofo_purge",
        .conditions = "place=skb_rbtree_purge caller=tcp_fin state=CLOSE_WAIT direction=rx",
        .why =
            "The stream is complete and the out-of-order queue holds copies of it. Data behind a "
            "hole, thrown away when the connection dies, is recorded.",
    },
    {
        .name = "error_queue",
        .conditions = "place=skb_queue_purge|skb_queue_purge_reason "
                      "caller=sk_stream_kill_queues|inet_sock_destruct state=CLOSE direction=tx; "
                      "place=skb_queue_purge|skb_queue_purge_reason "
                      "caller=sk_stream_kill_queues|inet_sock_destruct state=CLOSE protocol=icmp; "
                      "place=skb_queue_purge|skb_queue_purge_reason "
                      "caller=sk_stream_kill_queues|inet_sock_destruct state=CLOSE protocol=icmpv6",
        .why = "Copies of what was sent (for time stamps) and of errors, unread when the socket is "
               "closed. A packet that was lost is recorded where it was lost.",
    },
    {
        .name = "sniffer_copy",
        .conditions = "place=skb_queue_purge|skb_queue_purge_reason caller=packet_release; "
                      "place=packet_rcv|tpacket_rcv",
        .why =
            "A packet capture has not read its copy of a packet. The packet itself went its way, "
            "and is recorded if it was lost there.",
    },
    {
        .name = "neigh_teardown",
        .conditions = "place=neigh_invalidate|arp_error_report|ndisc_error_report direction=tx "
                      "flag=FIN flag=!SYN payload=none; "
                      "place=neigh_invalidate|arp_error_report|ndisc_error_report direction=tx "
                      "flag=RST flag=!SYN payload=none",
        .why = "The last words to a neighbour that has gone, as when a container is removed. A SYN "
               "or data to a neighbour that does not answer is recorded.",
    },
    {
        .name = "nic_tx_done",
        .conditions = "place=net_tx_action|__dev_kfree_skb_any|dev_kfree_skb_any_reason "
                      "caller=__napi_poll|bnxt_tx_int|__bnxt_tx_int reason=NOT_SPECIFIED? "
                      "direction=tx",
        .why = "A driver frees what it has sent as if it had dropped it. What a driver refuses to "
               "send is recorded.",
    },
    {
        .name = "reset_to_nobody",
        .conditions =
            "place=tcp_v4_rcv|tcp_v6_rcv reason=NO_SOCKET flag=RST flag=!SYN payload=none "
            "direction=rx",
        .why = "A reset for a connection that is gone already. Anything else for which there is no "
               "socket is recorded.",
    },
    {},
};
