/* What a power cut undoes: a log of every change since the last fsync, and the cut itself. A part of io_shim.c.
 *
 * A change of data is undone through our own descriptor of the file, a change of names by the opposite change. Removed files wait
 * beside the folder until an fsync of the folder makes their removal final.
 */
struct change {
    enum call call;
    ino_t inode;                    /* of data changes */
    int own;                        /* our own descriptor of that file: names may come and go */
    off64_t at, old_size, new_size; /* of data changes */
    size_t length, old_length;      /* written, and how much of it lay inside the file before */
    char *before, *after, *name, *other; /* names: created or removed; `other` holds a removed file, or is the new name */
    struct change *next, *previous;
};
static struct change *first, *newest;
static struct { ino_t inode; int fd; } own[FILES];
static int own_count;
static long hidden;

static int own_fd(int fd, ino_t inode) {
    char link[64];
    for (int i = 0; i < own_count; i++) if (own[i].inode == inode) return own[i].fd;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int opened = real_open64()(link, O_RDWR | O_CLOEXEC); /* stays open: closing it would drop the process's POSIX locks on the file */
    if (own_count < FILES) { own[own_count].inode = inode; own[own_count++].fd = opened; }
    return opened;
}

static struct change *record(enum call call) {
    struct change *c = calloc(1, sizeof *c);
    c->call = call; c->previous = newest;
    if (newest) newest->next = c; else first = c;
    return newest = c;
}

static void drop(struct change *c) {
    if (c->previous) c->previous->next = c->next; else first = c->next;
    if (c->next) c->next->previous = c->previous; else newest = c->previous;
    if (c->call == REMOVE && c->other) real_unlink()(c->other);
    free(c->before); free(c->after); free(c->name); free(c->other); free(c);
}

static void record_data(enum call call, int fd, off64_t at, const char *data, size_t length) {
    struct stat found;
    if (mode != POWER || fstat(fd, &found)) return;
    struct change *c = record(call);
    c->inode = found.st_ino; c->own = own_fd(fd, found.st_ino); c->old_size = found.st_size; c->at = at; c->length = length;
    c->new_size = call == WRITE ? (at + (off64_t)length > found.st_size ? at + (off64_t)length : found.st_size) : at;
    size_t kept = call == WRITE ? length : at < found.st_size ? (size_t)(found.st_size - at) : 0;
    c->before = malloc(kept + 1);
    ssize_t got = real_pread64()(c->own, c->before, kept, at);
    c->old_length = got < 0 ? 0 : got;
    if (call == WRITE) { c->after = malloc(length + 1); memcpy(c->after, data, length); }
}

static void durable(int fd) { /* fsync of a file, or of the folder */
    struct stat found;
    char path[PATH_MAX];
    if (mode != POWER || fstat(fd, &found)) return;
    int names = kind_of_fd(fd, path) == 2;
    for (struct change *c = first, *next; c; c = next) {
        int is_data = c->call == WRITE || c->call == TRUNCATE;
        next = c->next;
        if (names ? !is_data : is_data && c->inode == found.st_ino) drop(c);
    }
}

static void cut_power(void) {
    unsigned state = seed * 2654435761u + 1;
    long names = 0, surviving = 0;
    for (struct change *c = first; c; c = c->next) names += c->call >= CREATE;
    if (seed && names) surviving = draw(&state) % (names + 1); /* a file system keeps the order of names */
    for (struct change *c = newest; c; c = c->previous) {
        if (c->call == WRITE || c->call == TRUNCATE) {
            if (real_pwrite64()(c->own, c->before, c->old_length, c->at) < 0 || real_ftruncate64()(c->own, c->old_size)) abort();
        } else if (names-- > surviving) {
            if (c->call == CREATE) real_unlink()(c->name);
            else if (c->call == REMOVE) real_rename()(c->other, c->name);
            else real_rename()(c->other, c->name);
        }
    }
    for (struct change *c = first; c && seed; c = c->next) {
        if (c->call == TRUNCATE && draw(&state) & 1) { if (real_ftruncate64()(c->own, c->new_size)) abort(); }
        for (size_t from = 0; c->call == WRITE && from < c->length; ) {
            size_t to = (c->at + from) / 512 * 512 + 512 - c->at;
            if (to > c->length) to = c->length;
            if (draw(&state) & 1 && real_pwrite64()(c->own, c->after + from, to - from, c->at + from) < 0) abort();
            from = to;
        }
    }
}
