// SPDX-License-Identifier: GPL-2.0
//
// Makes the kernel misbehave in ways for which there is no other means: write "WHAT MILLISECONDS"
// to /proc/huatuo_fault, and the writer
//   irqs      spins with interrupts off
//   bh        spins with bottom halves off
//   preempt   spins without letting anybody else run on its CPU
//   sleep     sleeps in state D
// for that long, which is bounded (faults[]). It loads nowhere but in a guest of tests/vm, which
// QEMU is told to give this product name.

#include <linux/delay.h>
#include <linux/dmi.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

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

static const struct fault {
    const char *name;
    void (*run)(unsigned int ms);
    unsigned int max_ms;
} faults[] = {
    {"irqs", huatuo_fault_irqs, 10 * 1000},
    {"bh", huatuo_fault_bh, 60 * 1000},
    {"preempt", huatuo_fault_preempt, 60 * 1000},
    {"sleep", huatuo_fault_sleep, 300 * 1000},
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
    if (!dmi_match(DMI_PRODUCT_NAME, PRODUCT)) {
        pr_err("huatuo_fault: this is no guest of tests/vm: not loaded\n");
        return -EPERM;
    }
    return proc_create("huatuo_fault", 0200, NULL, &operations) ? 0 : -ENOMEM;
}

static void __exit end(void)
{
    remove_proc_entry("huatuo_fault", NULL);
}

module_init(begin);
module_exit(end);
MODULE_DESCRIPTION("Faults for HUATUO's tests");
MODULE_LICENSE("GPL");
