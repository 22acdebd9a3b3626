/* Run at every gate of the machine: another life of it must not draw the same chance. Chromium's generators (BoringSSL)
 * take theirs from the kernel once and go on from there; they take it anew when they notice that they were forked, by a
 * page that the kernel wipes in a child (MADV_WIPEONFORK). A life is such a fork: the page is wiped here, in each of its
 * processes. Which page it is the kernel tells slowly (smaps), so that is kept for processes that were looked at before.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRAM "/usr/lib/chromium/chromium"
#define KEPT "/run/pandastack/browser.pages"
#define MOST 1024
#define PAGE 4096

struct process {
    int pid;
    unsigned long long start; /* in ticks since the boot: no other process of this number has it */
    unsigned long page;       /* 0: it has none */
};

static struct process known[MOST], found[MOST];
static int knowns, founds;

static void read_known(void)
{
    FILE *in = fopen(KEPT, "r");
    if (in == NULL)
        return;
    while (knowns < MOST && fscanf(in, "%d %llu %lx", &known[knowns].pid, &known[knowns].start, &known[knowns].page) == 3)
        knowns++;
    fclose(in);
}

static void keep_found(void)
{
    FILE *out = fopen(KEPT ".new", "w");
    if (out == NULL)
        return;
    for (int at = 0; at < founds; at++)
        fprintf(out, "%d %llu %lx\n", found[at].pid, found[at].start, found[at].page);
    if (fclose(out) == 0)
        rename(KEPT ".new", KEPT);
}

static int is_ours(const char *pid)
{
    char path[288], program[sizeof PROGRAM + 1];
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    ssize_t size = readlink(path, program, sizeof program);
    return size == sizeof PROGRAM - 1 && memcmp(program, PROGRAM, sizeof PROGRAM - 1) == 0;
}

static unsigned long long start_of(const char *pid)
{
    char path[288], text[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    int fd = open(path, O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (size <= 0)
        return 0;
    text[size] = '\0';
    char *at = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

static unsigned long page_of(const char *pid)
{
    char path[288], line[4096], mode[8];
    unsigned long from = 0, to = 0, left = 0, right, page = 0;
    snprintf(path, sizeof path, "/proc/%s/smaps", pid);
    FILE *in = fopen(path, "r");
    if (in == NULL)
        return 0;
    setvbuf(in, NULL, _IOFBF, 1 << 16);
    while (page == 0 && fgets(line, sizeof line, in) != NULL) {
        if (sscanf(line, "%lx-%lx %7s", &left, &right, mode) == 3)
            from = left, to = right;
        else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf") != NULL && to - from == PAGE)
            page = from;
    }
    fclose(in);
    return page;
}

static void wipe(const struct process *one)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", one->pid);
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return;
    if (pwrite(fd, "\0\0\0\0", 4, one->page) != 4)
        perror(path);
    close(fd);
}

int main(void)
{
    int changed = 0;
    DIR *all = opendir("/proc");
    if (all == NULL)
        return 1;
    read_known();
    for (struct dirent *entry; founds < MOST && (entry = readdir(all)) != NULL;) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !is_ours(entry->d_name))
            continue;
        struct process one = {atoi(entry->d_name), start_of(entry->d_name), 0};
        int at = 0;
        while (at < knowns && (known[at].pid != one.pid || known[at].start != one.start))
            at++;
        if (at < knowns)
            one.page = known[at].page;
        else
            one.page = page_of(entry->d_name), changed = 1;
        if (one.page == 0)
            continue;
        wipe(&one);
        found[founds++] = one;
    }
    closedir(all);
    if (changed)
        keep_found();
    return 0;
}
