// SPDX-License-Identifier: GPL-2.0
//
// Makes the kernel misbehave in ways for which there is no other means: write "WHAT MILLISECONDS"
// to /proc/huatuo_fault, and the writer
//   irqs      spins with interrupts off
//   bh        spins with bottom halves off
//   preempt   spins without letting anybody else run on its CPU
//   sleep     sleeps in state D
// for that long, which is bounded (faults[]). "WHAT NUMBER" is for a network card, which is there
// from the first time on:
//   missed    it has missed so many packets
//   dropped   it has dropped so many
//   unhandled it receives so many of a protocol that nobody knows
//   trap      its hardware says that it has dropped so many, as that of a switch would
//   control   likewise, that it has passed so many on
//   stall     its transmit queue stands still from the next packet on; 0: it goes on
// It loads nowhere but in a guest of tests/vm, which QEMU is told to give this product name.

#include <linux/delay.h>
#include <linux/dmi.h>
#include <linux/etherdevice.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/platform_device.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/uaccess.h>
#include <net/devlink.h>
#include <trace/events/devlink.h>

#define PRODUCT "huatuo test guest"

static void spin(unsigned int ms)
{
    u64 until = ktime_get_ns() + ms * (u64)NSEC_PER_MSEC;

    while (ktime_get_ns() < until)
        cpu_relax();
}

/* Functions of their own, to be found in stacks. */
static noinline void huatuo_fault_irqs(unsigned int ms)
{
    unsigned long flags;

    local_irq_save(flags);
    spin(ms);
    local_irq_restore(flags);
}

static noinline void huatuo_fault_bh(unsigned int ms)
{
    local_bh_disable();
    spin(ms);
    local_bh_enable();
}

static noinline void huatuo_fault_preempt(unsigned int ms)
{
    preempt_disable();
    spin(ms);
    preempt_enable();
}

static noinline void huatuo_fault_sleep(unsigned int ms)
{
    schedule_timeout_uninterruptible(msecs_to_jiffies(ms));
}

static struct platform_driver driver = {.driver = {.name = "huatuo_fault"}};
static struct platform_device *parent;
static struct net_device *card;
static unsigned long missed, dropped;
static bool stalls;

static netdev_tx_t card_xmit(struct sk_buff *skb, struct net_device *dev)
{
    if (stalls)
        netif_stop_queue(dev);
    consume_skb(skb);
    return NETDEV_TX_OK;
}

static void card_stats(struct net_device *dev, struct rtnl_link_stats64 *ret)
{
    ret->rx_missed_errors = missed;
    ret->rx_dropped = dropped;
}

static void card_timeout(struct net_device *dev, unsigned int queue)
{
    netif_wake_queue(dev);
}

static const struct net_device_ops card_operations = {
    .ndo_start_xmit = card_xmit,
    .ndo_get_stats64 = card_stats,
    .ndo_tx_timeout = card_timeout,
};

static bool have_card(void)
{
    if (card)
        return true;
    card = alloc_etherdev(0);
    if (!card)
        return false;
    eth_hw_addr_random(card);
    strscpy(card->name, "huatuo%d", IFNAMSIZ);
    card->netdev_ops = &card_operations;
    card->watchdog_timeo = HZ / 2;
    SET_NETDEV_DEV(card, &parent->dev);
    if (register_netdev(card) == 0)
        return true;
    free_netdev(card);
    card = NULL;
    return false;
}

static void huatuo_fault_missed(unsigned int n)
{
    if (have_card())
        missed += n;
}

static void huatuo_fault_dropped(unsigned int n)
{
    if (have_card())
        dropped += n;
}

static void huatuo_fault_unhandled(unsigned int n)
{
    while (have_card() && n--) {
        struct sk_buff *skb = netdev_alloc_skb(card, ETH_ZLEN);

        if (!skb)
            return;
        skb_put_zero(skb, ETH_ZLEN);
        memcpy(skb->data, card->dev_addr, ETH_ALEN);
        skb->data[12] = 0x88;
        skb->data[13] = 0xb5; /* for experiments, IEEE 802 */
        skb->protocol = eth_type_trans(skb, card);
        local_bh_disable();
        netif_receive_skb(skb);
        local_bh_enable();
    }
}

/* No devlink instance is made for it: the tracepoint's own event, which would ask for its name,
 * must not be on. */
static void report(unsigned int n, enum devlink_trap_type type)
{
    static const u8 packet[] = {
        0x45, 0, 0,    28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, /* IPv4 */
        0x10, 1, 0x10, 2,  0, 8, 0, 0,                                           /* UDP */
    };
    const struct devlink_trap_metadata metadata = {
        .trap_name = "huatuo_trap",
        .trap_group_name = "huatuo_traps",
        .input_dev = card,
        .trap_type = type,
    };

    while (n--) {
        struct sk_buff *skb = netdev_alloc_skb(card, sizeof(packet));

        if (!skb)
            return;
        skb_put_data(skb, packet, sizeof(packet));
        skb_reset_network_header(skb);
        skb->protocol = htons(ETH_P_IP);
        skb->skb_iif = card->ifindex;
        trace_devlink_trap_report(NULL, skb, &metadata);
        consume_skb(skb);
    }
}

static void huatuo_fault_trap(unsigned int n)
{
    if (have_card())
        report(n, DEVLINK_TRAP_TYPE_DROP);
}

static void huatuo_fault_control(unsigned int n)
{
    if (have_card())
        report(n, DEVLINK_TRAP_TYPE_CONTROL);
}

static void huatuo_fault_stall(unsigned int on)
{
    if (!have_card())
        return;
    stalls = on;
    if (!on)
        netif_wake_queue(card);
}

static const struct fault {
    const char *name;
    void (*run)(unsigned int ms);
    unsigned int max_ms;
} faults[] = {
    {"irqs", huatuo_fault_irqs, 10 * 1000},       {"bh", huatuo_fault_bh, 60 * 1000},
    {"preempt", huatuo_fault_preempt, 60 * 1000}, {"sleep", huatuo_fault_sleep, 300 * 1000},
    {"missed", huatuo_fault_missed, 1000 * 1000}, {"dropped", huatuo_fault_dropped, 1000 * 1000},
    {"unhandled", huatuo_fault_unhandled, 1000},  {"trap", huatuo_fault_trap, 1000},
    {"control", huatuo_fault_control, 1000},      {"stall", huatuo_fault_stall, 1},
};

static ssize_t on_write(struct file *file, const char __user *bytes, size_t size, loff_t *at)
{
    char line[32] = "", name[16];
    unsigned int ms, i;

    if (size >= sizeof(line) || copy_from_user(line, bytes, size))
        return -EINVAL;
    if (sscanf(line, "%15s %u", name, &ms) != 2)
        return -EINVAL;
    for (i = 0; i < ARRAY_SIZE(faults); i++) {
        if (strcmp(name, faults[i].name) != 0)
            continue;
        if (ms > faults[i].max_ms)
            return -ERANGE;
        faults[i].run(ms);
        return size;
    }
    return -EINVAL;
}

static const struct proc_ops operations = {.proc_write = on_write};

static int __init begin(void)
{
    int r;

    if (!dmi_match(DMI_PRODUCT_NAME, PRODUCT)) {
        pr_err("huatuo_fault: this is no guest of tests/vm: not loaded\n");
        return -EPERM;
    }
    r = platform_driver_register(&driver);
    if (r < 0)
        return r;
    parent = platform_device_register_simple("huatuo_fault", -1, NULL, 0);
    if (IS_ERR(parent)) {
        platform_driver_unregister(&driver);
        return PTR_ERR(parent);
    }
    if (proc_create("huatuo_fault", 0200, NULL, &operations))
        return 0;
    platform_device_unregister(parent);
    platform_driver_unregister(&driver);
    return -ENOMEM;
}

static void __exit end(void)
{
    remove_proc_entry("huatuo_fault", NULL);
    if (card) {
        unregister_netdev(card);
        free_netdev(card);
    }
    platform_device_unregister(parent);
    platform_driver_unregister(&driver);
}

module_init(begin);
module_exit(end);
MODULE_DESCRIPTION("Faults for HUATUO's tests");
MODULE_LICENSE("GPL");
