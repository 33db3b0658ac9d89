// A service of two processes that work together through POSIX shared memory and compare it when asked over TCP:
// segments ADDRESS PORT. Answers `OK`, or what differs.
//
// /segments-test holds a counter that both raise under a process-shared mutex, each a number of its own beside it;
// /sem.segments-test is a named semaphore that the child waits for; a third segment has lost its name.
#include "asked.h"
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

// Longer than its pages' worth, with a hole in the middle.
enum { SIZE = (48 << 20) + 1000, MARK = 40 << 20 };

struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    long total, parts[2], answers;
};
static struct shared *shared;
static char *nameless;
static sem_t *semaphore;
static int descriptor;
static pid_t child;

static void differ(const char *what, long expected, long found) {
    size_t used = strlen(differences);
    snprintf(differences + used, sizeof differences - used, "%s: expected %ld, found %ld; ", what, expected, found);
}
#define SAME(what, expected, found)                                                                                    \
    do {                                                                                                               \
        long expected_ = (long)(expected), found_ = (long)(found);                                                     \
        if (expected_ != found_) differ(what, expected_, found_);                                                      \
    } while (0)

static void raise_part(int who) {
    pthread_mutex_lock(&shared->mutex);
    shared->parts[who]++;
    shared->total++;
    pthread_cond_broadcast(&shared->changed);
    pthread_mutex_unlock(&shared->mutex);
}

static void *count(void *who) {
    struct timespec pause = {0, 1000000};
    for (;;) {
        raise_part((int)(long)who);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static void be_child(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pthread_t thread;
    pthread_create(&thread, NULL, count, (void *)1);
    for (;;) {
        while (sem_wait(semaphore)) {}
        pthread_mutex_lock(&shared->mutex);
        shared->answers++;
        pthread_cond_broadcast(&shared->changed);
        pthread_mutex_unlock(&shared->mutex);
    }
}

static void make(void) {
    shm_unlink("/segments-test");
    sem_unlink("/segments-test");
    need((descriptor = shm_open("/segments-test", O_RDWR | O_CREAT | O_EXCL, 0640)) >= 0, "shm_open");
    need(!ftruncate(descriptor, SIZE), "ftruncate");
    shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    need(shared != MAP_FAILED, "mmap");
    pthread_mutexattr_t mutex;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->mutex, &mutex);
    pthread_condattr_t condition;
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&shared->changed, &condition);
    strcpy((char *)shared + MARK, "far away");
    need((semaphore = sem_open("/segments-test", O_CREAT | O_EXCL, 0600, 0)) != SEM_FAILED, "sem_open");
    int gone = shm_open("/segments-gone", O_RDWR | O_CREAT, 0600);
    need(gone >= 0 && !ftruncate(gone, 100000) && !shm_unlink("/segments-gone"), "unlinked segment");
    nameless = mmap(NULL, 100000, PROT_READ | PROT_WRITE, MAP_SHARED, gone, 0);
    need(nameless != MAP_FAILED, "mmap");
    strcpy(nameless + 99000, "without a name");
    close(gone);
}

// Whether both processes go on counting, and the child answers a post, within two seconds.
static void check_life(void) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 2;
    pthread_mutex_lock(&shared->mutex);
    long parts[2] = {shared->parts[0], shared->parts[1]}, answers = shared->answers;
    sem_post(semaphore);
    while (shared->parts[0] <= parts[0] || shared->parts[1] <= parts[1] || shared->answers <= answers)
        if (pthread_cond_timedwait(&shared->changed, &shared->mutex, &end)) {
            differ("progress: parts and answers in two seconds", 3,
                   (shared->parts[0] > parts[0]) + (shared->parts[1] > parts[1]) + (shared->answers > answers));
            break;
        }
    SAME("sum of the parts", shared->parts[0] + shared->parts[1], shared->total);
    pthread_mutex_unlock(&shared->mutex);
}

static void check(const char *question) {
    (void)question;
    check_life();
    struct stat own, named;
    int again = shm_open("/segments-test", O_RDONLY, 0);
    if (again < 0 || fstat(descriptor, &own) || fstat(again, &named)) differ("segment by its name", 0, errno);
    SAME("segment by its name", own.st_ino, named.st_ino);
    SAME("size", SIZE, named.st_size);
    SAME("mode", 0640, named.st_mode & 07777);
    SAME("owner", getuid(), named.st_uid);
    // Two pages and a handful of structures: the hole has stayed one.
    if (named.st_blocks > 2000) differ("blocks of 512 bytes", 2000, named.st_blocks);
    char found[16] = "";
    SAME("read by descriptor", 9, pread(again, found, 9, MARK));
    if (strcmp(found, "far away") || strcmp((char *)shared + MARK, found)) differ("content", 0, 1);
    close(again);
    if (strcmp(nameless + 99000, "without a name")) differ("segment without a name", 0, 1);
    if (stat("/dev/shm/sem.segments-test", &named)) differ("semaphore by its name", 0, errno);
    SAME("size of the semaphore", sizeof(sem_t), named.st_size);
}

int main(int argc, char **argv) {
    if (argc != 3) return 64;
    int local = listen_at(argv[1], argv[2]);
    make();
    need((child = fork()) >= 0, "fork");
    if (!child) be_child();
    pthread_t thread;
    need(!pthread_create(&thread, NULL, count, (void *)0), "thread");
    serve(local, check);
}
