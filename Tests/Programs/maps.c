// A service with one of each kind of mapping: maps ADDRESS PORT DATAFILE. Asked over TCP it answers `OK`, or what of
// content, flags of /proc/self/smaps, rights or size is not as it was made.
#include "asked.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

// Newer than the headers of Debian 12.
enum { GUARD_INSTALL = 102, FUTURE_WRITE = 0x10, PAGE = 4096, MAPS = 40 };

struct map { const char *name; char *start; size_t pages; char flags[160]; };

static struct map maps[MAPS];
static int listener, map_count, sealed, future, sparse, tick[2], tock[2];
static char *volatile stack_end;
static sigjmp_buf back;
static volatile uint32_t *shared_words;

static void differ(const char *name, const char *what, long expected, long found) {
    size_t used = strlen(differences);
    if (used < sizeof differences - 160)
        snprintf(differences + used, 160, "%s, %s: %ld instead of %ld; ", name, what, found, expected);
}

// The line of smaps in which `address` lies: bounds, rights, offset, name and flags.
static void describe(const struct map *map, char to[160]) {
    char line[512];
    int inside = 0;
    FILE *file = fopen("/proc/self/smaps", "r");
    to[0] = 0;
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end, offset;
        char rights[8], name[80] = "";
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %79[^\n]", &start, &end, rights, &offset, name) >= 4) {
            inside = start <= (unsigned long)map->start && (unsigned long)map->start < end;
            if (inside) snprintf(to, 100, "%s %lx %.60s", rights, strcmp(name, "") ? offset : 0, name);
        } else if (inside && !strncmp(line, "VmFlags:", 8)) {
            strncat(to, line + 8, 159 - strlen(to));
            // Soft-dirty is no setting; where a shared mapping cannot be made writable, nothing depends on `sh`.
            for (char *flag; (flag = strstr(to, " sd"));) memmove(flag, flag + 3, strlen(flag + 3) + 1);
            if (!strstr(to, " mw"))
                for (char *flag; (flag = strstr(to, " sh"));) memmove(flag, flag + 3, strlen(flag + 3) + 1);
            to[strcspn(to, "\n")] = 0;
        }
    }
    if (file) fclose(file);
}

static char pattern(const struct map *map, size_t page) { return (char)(1 + (map - maps) * 7 + page * 13) | 1; }

static struct map *add(const char *name, char *start, size_t pages) {
    need(start != MAP_FAILED && map_count < MAPS, name);
    struct map *map = &maps[map_count++];
    *map = (struct map){.name = name, .start = start, .pages = pages};
    return map;
}

// Far apart from its neighbours, so that it is a line of its own.
static struct map *map(const char *name, size_t pages, int protection, int flags, int fd, off_t offset) {
    static uintptr_t place = 0x200000000000;
    place += 0x10000000;
    return add(name, mmap((void *)place, pages * PAGE, protection, flags | MAP_FIXED_NOREPLACE, fd, offset), pages);
}

static struct map *anonymous(const char *name, size_t pages, int flags) {
    return map(name, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static struct map *fill(struct map *map, size_t first, size_t count) {
    for (size_t page = first; page < first + count; page++)
        memset(map->start + page * PAGE, pattern(map, page), PAGE);
    return map;
}

static void advise(struct map *map, size_t first, size_t count, int advice) {
    need(!madvise(map->start + first * PAGE, count * PAGE, advice), map->name);
}

// One byte as another process would read it: the error, or the byte.
static int peek(const char *address) {
    char byte;
    struct iovec to = {&byte, 1}, from = {(void *)address, 1};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? (unsigned char)byte : -errno;
}

static void expect_filled(struct map *map, size_t first, size_t count) {
    for (size_t page = first; page < first + count; page++)
        if (peek(map->start + page * PAGE) != (unsigned char)pattern(map, page)
            || map->start[page * PAGE + PAGE - 1] != pattern(map, page))
            return differ(map->name, "content of a page", (unsigned char)pattern(map, page),
                          peek(map->start + page * PAGE));
}

static struct map *find(const char *name) {
    for (int i = 0; i < map_count; i++)
        if (!strcmp(maps[i].name, name)) return &maps[i];
    abort();
}

// How many of a mapping's pages are in memory, mincore(2).
static long resident(const struct map *map) {
    unsigned char *pages = malloc(map->pages);
    long count = 0;
    mincore(map->start, map->pages * PAGE, pages);
    for (size_t i = 0; i < map->pages; i++) count += pages[i] & 1;
    free(pages);
    return count;
}

static void make_private(const char *path) {
    struct map *guarded = fill(anonymous("guarded", 8, 0), 0, 8);
    advise(guarded, 3, 2, GUARD_INSTALL);
    struct map *locked_guard = fill(anonymous("guarded and locked", 4, 0), 0, 4);
    advise(locked_guard, 1, 1, GUARD_INSTALL);
    mlock(locked_guard->start, 4 * PAGE);
    need(!mlock(fill(anonymous("locked", 4, 0), 0, 4)->start, 4 * PAGE), "mlock");
    need(!syscall(SYS_mlock2, anonymous("locked on fault", 64, 0)->start, 64 * PAGE, MLOCK_ONFAULT), "mlock2");
    fill(find("locked on fault"), 5, 2);
    advise(fill(anonymous("not for children", 2, 0), 0, 2), 0, 2, MADV_DONTFORK);
    advise(fill(anonymous("not for cores", 2, 0), 0, 2), 0, 2, MADV_DONTDUMP);
    advise(fill(anonymous("wiped for children", 2, 0), 0, 2), 0, 2, MADV_WIPEONFORK);
    advise(anonymous("huge", 1024, 0), 0, 1024, MADV_HUGEPAGE);
    fill(find("huge"), 512, 2);
    advise(fill(anonymous("not huge", 2, 0), 0, 2), 0, 2, MADV_NOHUGEPAGE);
    madvise(fill(anonymous("mergeable", 2, 0), 0, 2)->start, 2 * PAGE, MADV_MERGEABLE);
    fill(anonymous("without reserve", 2, MAP_NORESERVE), 0, 1);
    // A kernel may be built without such names.
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, fill(anonymous("named", 2, 0), 0, 2)->start, 2 * PAGE, "corner");
    need(!mprotect(fill(anonymous("hidden", 4, 0), 0, 4)->start, 4 * PAGE, PROT_NONE), "mprotect");
    need(!mprotect(fill(anonymous("read only", 4, 0), 1, 2)->start, 4 * PAGE, PROT_READ), "mprotect");
    map("never writable", 4, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct map *code = map("code", 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code->start, "\xb8\x2a\x00\x00\x00\xc3", 6);
    need(!mprotect(code->start, PAGE, PROT_READ | PROT_EXEC), "code");
    struct map *grows = anonymous("grows down", 2, MAP_GROWSDOWN | MAP_STACK);
    fill(grows, 0, 2);
    stack_end = grows->start;
    int data = open(path, O_RDONLY);
    struct map *dirty = map("file, private", 4, PROT_READ | PROT_WRITE, MAP_PRIVATE, data, PAGE);
    fill(dirty, 2, 1);
    need(!mprotect(dirty->start, 4 * PAGE, PROT_READ), "mprotect");
    struct map *guarded_file = map("file, guarded", 4, PROT_READ | PROT_WRITE, MAP_PRIVATE, data, 0);
    advise(guarded_file, 2, 1, GUARD_INSTALL);
    advise(map("file, sequential", 4, PROT_READ, MAP_PRIVATE, data, 0), 0, 4, MADV_SEQUENTIAL);
    advise(map("file, random", 4, PROT_READ, MAP_SHARED, data, 0), 0, 4, MADV_RANDOM);
    close(data);
}

static void make_shared(void) {
    fill(map("shared", 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 1, 2);
    fill(map("shared, sparse", 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 3000, 2);
    advise(fill(map("shared, guarded", 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 0, 1), 2, 1,
           GUARD_INSTALL);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME,
          map("shared, named", 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)->start, 2 * PAGE, "corner");
    sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
    need(!ftruncate(sealed, 2 * PAGE) && pwrite(sealed, "sealed", 6, PAGE) == 6, "memfd");
    need(!fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL), "seals");
    map("sealed", 2, PROT_READ, MAP_SHARED, sealed, 0);
    map("sealed, private", 2, PROT_READ | PROT_WRITE, MAP_PRIVATE, sealed, 0)->start[10] = 'p';
    future = memfd_create("future", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    need(!ftruncate(future, 2 * PAGE), "memfd");
    fill(map("future", 2, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0), 0, 2);
    need(!fcntl(future, F_ADD_SEALS, FUTURE_WRITE), "seals");
    sparse = memfd_create("sparse", 0);
    need(!ftruncate(sparse, 1 << 30) && pwrite(sparse, "x", 1, 700 << 20) == 1, "memfd");
    need(!pipe(tick) && !pipe(tock), "pipe");
    shared_words = (uint32_t *)find("shared")->start;
    if (fork()) return;
    close(listener);
    for (char byte; read(tick[0], &byte, 1) == 1;) {
        shared_words[1] = shared_words[0] + 1;
        if (write(tock[1], &byte, 1) != 1) break;
    }
    _exit(0);
}

static void on_fault(int number) {
    (void)number;
    siglongjmp(back, 1);
}

static void expect_guard(const char *name, size_t page) {
    struct map *map = find(name);
    volatile int faulted = 0;
    signal(SIGSEGV, on_fault);
    if (!sigsetjmp(back, 1)) *(volatile char *)(map->start + page * PAGE);
    else faulted = 1;
    signal(SIGSEGV, SIG_DFL);
    if (!faulted) differ(name, "fault in its guard page", 1, 0);
}

static void check_private(void) {
    expect_guard("guarded", 3);
    expect_guard("guarded", 4);
    expect_filled(find("guarded"), 0, 3);
    expect_filled(find("guarded"), 5, 3);
    expect_guard("guarded and locked", 1);
    expect_filled(find("guarded and locked"), 2, 2);
    expect_guard("file, guarded", 2);
    expect_filled(find("locked"), 0, 4);
    expect_filled(find("locked on fault"), 5, 2);
    if (resident(find("locked on fault")) != 2) differ("locked on fault", "pages", 2, resident(find("locked on fault")));
    expect_filled(find("huge"), 512, 2);
    expect_filled(find("named"), 0, 2);
    expect_filled(find("read only"), 1, 2);
    for (int i = 0; i < 4; i++) {
        struct map *hidden = find("hidden");
        if (peek(hidden->start + i * PAGE) != -EFAULT) differ("hidden", "reading", -EFAULT, peek(hidden->start));
    }
    mprotect(find("hidden")->start, 4 * PAGE, PROT_READ);
    expect_filled(find("hidden"), 0, 4);
    mprotect(find("hidden")->start, 4 * PAGE, PROT_NONE);
    int (*code)(void) = (int (*)(void))find("code")->start;
    if (code() != 42) differ("code", "result", 42, code());
    // Grows by a page at each question.
    stack_end -= PAGE;
    volatile int faulted = 0;
    signal(SIGSEGV, on_fault);
    if (!sigsetjmp(back, 1)) *(volatile char *)stack_end = 1;
    else faulted = 1;
    signal(SIGSEGV, SIG_DFL);
    if (faulted) differ("grows down", "fault below it", 0, 1);
    expect_filled(find("grows down"), 0, 2);
    struct map *dirty = find("file, private"), *clean = find("file, guarded");
    expect_filled(dirty, 2, 1);
    if (memcmp(dirty->start, clean->start + PAGE, PAGE)) differ("file, private", "clean page", 0, 1);
    int status = 0;
    if (!fork()) {
        struct map *gone = find("not for children"), *wiped = find("wiped for children");
        _exit((peek(gone->start) != -EFAULT) | (peek(wiped->start) != 0) << 1);
    }
    wait(&status);
    if (status) differ("children", "what they see of the parent", 0, WEXITSTATUS(status));
}

static void check_shared(void) {
    char byte = 0, text[8] = "";
    shared_words[0] = (uint32_t)random();
    if (write(tick[1], &byte, 1) != 1 || read(tock[0], &byte, 1) != 1 || shared_words[1] != shared_words[0] + 1)
        differ("shared", "answer of the other process", shared_words[0] + 1, shared_words[1]);
    expect_filled(find("shared"), 2, 1);
    expect_filled(find("shared, sparse"), 3000, 2);
    if (resident(find("shared, sparse")) != 2) differ("shared, sparse", "pages", 2, resident(find("shared, sparse")));
    expect_guard("shared, guarded", 2);
    expect_filled(find("shared, guarded"), 0, 1);
    int seals = fcntl(sealed, F_GET_SEALS);
    if (seals != (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL)) differ("sealed", "seals", 11, seals);
    if (strcmp(find("sealed")->start + PAGE, "sealed")) differ("sealed", "content", 0, 1);
    if (find("sealed, private")->start[10] != 'p') differ("sealed, private", "content", 'p', 0);
    if (!mprotect(find("sealed")->start, PAGE, PROT_READ | PROT_WRITE)) differ("sealed", "made writable", EACCES, 0);
    if (pwrite(sealed, "x", 1, 0) != -1 || errno != EPERM) differ("sealed", "write", EPERM, errno);
    seals = fcntl(future, F_GET_SEALS);
    if (seals != FUTURE_WRITE) differ("future", "seals", FUTURE_WRITE, seals);
    expect_filled(find("future"), 0, 2);
    fill(find("future"), 0, 2);
    struct stat status;
    fstat(sparse, &status);
    if (status.st_size != 1 << 30 || status.st_blocks != 8) differ("sparse", "blocks", 8, status.st_blocks);
    if (lseek(sparse, 0, SEEK_DATA) != 700 << 20) differ("sparse", "data at", 700 << 20, lseek(sparse, 0, SEEK_DATA));
    if (pread(sparse, text, 1, 700 << 20) != 1 || text[0] != 'x') differ("sparse", "content", 'x', text[0]);
}

static void check(const char *question) {
    (void)question;
    for (int i = 0; i < map_count; i++) {
        char now[160];
        describe(&maps[i], now);
        if (!strcmp(now, maps[i].flags)) continue;
        size_t used = strlen(differences);
        if (used < sizeof differences - 400)
            snprintf(differences + used, 400, "%s: %s instead of %s; ", maps[i].name, now, maps[i].flags);
    }
    check_private();
    check_shared();
}

int main(int argc, char **argv) {
    if (argc != 4) return 64;
    listener = listen_at(argv[1], argv[2]);
    make_private(argv[3]);
    make_shared();
    for (int i = 0; i < map_count; i++) describe(&maps[i], maps[i].flags);
    serve(listener, check);
}
