/* A CUDA runtime and driver without a GPU: what is enqueued runs when somebody waits for it, and not before.
 *
 * Device addresses carry a tag, so the host cannot read them by accident. Memory is 0xCD when it is new and when it is freed, freed memory is
 * never handed out again, and every access is looked up: what is wrong is counted as a violation and said in words. An operation runs with the
 * lock released, one at a time per stream, in the thread that waits. Modes: 0, a query runs one operation; 1 (late), a query runs nothing.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAG (1ULL << 60)
#define POISON 0xCD
#define API __attribute__((visibility("default")))
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, DRIVER_OLD = 35, NO_DEVICE = 100, INVALID_HANDLE = 400, NOT_READY = 600, ILLEGAL = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };
enum { COPY, CALL, RECORD, WAIT, SET };

typedef struct Stream Stream;
typedef struct { Stream *stream; uint64_t seq; int is_live; int is_captured; } Event;
typedef struct Op {
  int kind, copy_kind, value; void *to, *from; size_t size; void *owned;
  void (*call)(void *); void *argument; Stream *other; uint64_t other_seq, seq; struct Op *next;
} Op;
typedef struct Graph { Op *head, *tail; int is_invalid, is_live; } Graph;
struct Stream { Op *head, *tail; uint64_t enqueued, done; int is_busy, is_live, priority; pthread_t owner; Graph *capture; pthread_t captor; };
typedef struct { char *base; size_t size; int is_device, is_live; } Block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Block blocks[65536]; static int block_count;
static Stream *streams[4096]; static int stream_count;
static char words[4096]; static int violation_count, sticky, mode, driver_state, integrated, pointer_device;
static size_t live_bytes, peak_bytes, capacity = 1ULL << 32;
static long copies[5], copied[5], pageable, launches, live_execs, live_events, call_count;
static struct { char name[48]; int nth, code; } planned[32];

static void violation(const char *format, ...) {
  va_list list; va_start(list, format); violation_count++; vsnprintf(words, sizeof words, format, list); va_end(list);
}
static int inject(const char *name) {
  for (int i = 0; i < 32; i++)
    if (planned[i].nth > 0 && !strcmp(planned[i].name, name) && --planned[i].nth == 0) return planned[i].code;
  return sticky;
}
#define ENTER(name) pthread_mutex_lock(&lock); call_count++; int code_ = inject(name); if (code_) { pthread_mutex_unlock(&lock); return code_; }
#define LEAVE(code) do { int c_ = (code); pthread_mutex_unlock(&lock); return c_; } while (0)

static char *host_of(const void *pointer) { return (char *)((uintptr_t)pointer & ~TAG); }
static int is_tagged(const void *pointer) { return ((uintptr_t)pointer & TAG) != 0; }
static Block *find(const void *pointer, size_t size) {
  char *at = host_of(pointer);
  for (int i = block_count - 1; i >= 0; i--)
    if (at >= blocks[i].base && at + size <= blocks[i].base + blocks[i].size) return &blocks[i];
  return NULL;
}
/* The host's view of device memory, or NULL with a violation: what kernels and copies go through. */
static char *view(const void *pointer, size_t size, const char *what) {
  Block *block = find(pointer, size);
  if (!is_tagged(pointer)) { violation("%s: %p is no device address", what, pointer); return NULL; }
  if (!block) { violation("%s: %p + %zu lies in no allocation", what, pointer, size); return NULL; }
  if (!block->is_live) { violation("%s: %p + %zu was freed", what, pointer, size); return NULL; }
  return host_of(pointer);
}

static void *allocate(size_t size, int is_device) {
  void *base = NULL;
  size_t room = (size + 4095) & ~(size_t)4095;
  if (block_count == 65536 || posix_memalign(&base, 4096, room ? room : 4096)) return NULL;
  memset(base, POISON, room ? room : 4096);
  blocks[block_count++] = (Block){base, size, is_device, 1};
  if (is_device) { live_bytes += size; if (live_bytes > peak_bytes) peak_bytes = live_bytes; }
  return base;
}
static int release(void *pointer, int is_device) {
  for (int i = 0; i < block_count; i++)
    if (blocks[i].base == host_of(pointer)) {
      if (blocks[i].is_device != is_device) { violation("free: %p is of the other kind", pointer); return INVALID; }
      if (!blocks[i].is_live) { violation("free: %p was freed before", pointer); return INVALID; }
      blocks[i].is_live = 0; memset(blocks[i].base, POISON, blocks[i].size);
      if (is_device) live_bytes -= blocks[i].size;
      return OK;
    }
  violation("free: %p was never allocated", pointer);
  return INVALID;
}

static void drain(Stream *stream, uint64_t seq);
static void run(Op *op) { /* the lock is held; released around what takes time */
  if (op->kind == WAIT) drain(op->other, op->other_seq);
  else if (op->kind == CALL) { pthread_mutex_unlock(&lock); op->call(op->argument); pthread_mutex_lock(&lock); launches++; }
  else if (op->kind == SET) { char *to = view(op->to, op->size, "memset"); if (to) memset(to, op->value, op->size); }
  else if (op->kind == COPY) {
    char *to = op->copy_kind == TO_HOST ? op->to : view(op->to, op->size, "copy to");
    char *from = op->copy_kind == TO_DEVICE ? (op->owned ? op->owned : op->from) : view(op->from, op->size, "copy from");
    Block *host = op->copy_kind == TO_HOST ? find(op->to, op->size) : op->copy_kind == TO_DEVICE && !op->owned ? find(op->from, op->size) : NULL;
    if (host && !host->is_live) { violation("copy: pinned memory was freed"); return; }
    if (to && from) { pthread_mutex_unlock(&lock); memmove(to, from, op->size); pthread_mutex_lock(&lock); }
    copies[op->copy_kind]++; copied[op->copy_kind] += op->size;
  }
}
static int step(Stream *stream) { /* one operation, if there is one and nobody is at it */
  Op *op = stream->head;
  if (!op || stream->is_busy) return 0;
  stream->head = op->next; if (!stream->head) stream->tail = NULL;
  stream->is_busy = 1; stream->owner = pthread_self();
  run(op);
  stream->is_busy = 0; stream->done = op->seq;
  free(op->owned); free(op);
  pthread_cond_broadcast(&changed);
  return 1;
}
static void drain(Stream *stream, uint64_t seq) {
  while (stream->done < seq) {
    if (stream->is_busy && pthread_equal(stream->owner, pthread_self())) { violation("a stream waits for itself"); return; }
    if (stream->is_busy) pthread_cond_wait(&changed, &lock);
    else if (!step(stream)) return;
  }
}
static void drain_all(void) { for (int i = 0; i < stream_count; i++) if (!streams[i]->capture) drain(streams[i], streams[i]->enqueued); }

static int push(Stream *stream, Op op) {
  if (!stream || !stream->is_live) { violation("a stream that is not there"); return INVALID_HANDLE; }
  Op *made = malloc(sizeof *made); *made = op; made->next = NULL;
  if (stream->capture) {
    if (!pthread_equal(stream->captor, pthread_self())) violation("another thread enqueues on a stream that is being captured");
    if (stream->capture->tail) stream->capture->tail->next = made; else stream->capture->head = made;
    stream->capture->tail = made; return OK;
  }
  made->seq = ++stream->enqueued;
  if (stream->tail) stream->tail->next = made; else stream->head = made;
  stream->tail = made; return OK;
}
static int captured(Stream *stream) { if (stream && stream->capture) { stream->capture->is_invalid = 1; return 1; } return 0; }

/* ---- memory */
API int cudaMalloc(void **out, size_t size) {
  ENTER("cudaMalloc");
  for (int i = 0; i < stream_count; i++) if (streams[i]->capture && pthread_equal(streams[i]->captor, pthread_self())) { captured(streams[i]); LEAVE(CAPTURE_UNSUPPORTED); }
  if (live_bytes + size > capacity) LEAVE(NO_MEMORY);
  char *base = allocate(size, 1); if (!base) LEAVE(NO_MEMORY);
  *out = (void *)((uintptr_t)base | TAG); LEAVE(OK);
}
API int cudaFree(void *pointer) { ENTER("cudaFree"); drain_all(); LEAVE(release(pointer, 1)); }
API int cudaHostAlloc(void **out, size_t size, unsigned flags) { ENTER("cudaHostAlloc"); (void)flags; *out = allocate(size, 0); LEAVE(*out ? OK : NO_MEMORY); }
API int cudaFreeHost(void *pointer) { ENTER("cudaFreeHost"); drain_all(); LEAVE(release(pointer, 0)); }
API int cudaHostGetDevicePointer(void **out, void *host, unsigned flags) {
  ENTER("cudaHostGetDevicePointer"); (void)flags;
  if (!find(host, 1)) LEAVE(INVALID);
  *out = (void *)((uintptr_t)host | TAG); LEAVE(OK);
}
API int cudaPointerGetAttributes(int *out, const void *pointer) {
  ENTER("cudaPointerGetAttributes"); Block *block = find(pointer, 1);
  out[0] = block && is_tagged(pointer) ? 2 : 0; out[1] = pointer_device; LEAVE(OK);
}
API int cudaMemGetInfo(size_t *free_, size_t *total) { ENTER("cudaMemGetInfo"); *free_ = capacity - live_bytes; *total = capacity; LEAVE(OK); }
API int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, Stream *stream) {
  ENTER("cudaMemcpyAsync");
  Op op = {.kind = COPY, .copy_kind = kind, .to = to, .from = (void *)from, .size = size};
  if (kind == TO_DEVICE && is_tagged(from)) { violation("copy to the device from %p, which is there", from); LEAVE(INVALID); }
  if (kind == TO_HOST && is_tagged(to)) { violation("copy to the host, to %p, which is on the device", to); LEAVE(INVALID); }
  if (kind == TO_DEVICE && !find(from, size)) { pageable++; op.owned = malloc(size); memcpy(op.owned, from, size); }
  if (kind == TO_HOST && !find(to, size)) pageable++;
  LEAVE(push(stream, op));
}
API int cudaMemsetAsync(void *to, int value, size_t size, Stream *stream) { ENTER("cudaMemsetAsync"); LEAVE(push(stream, (Op){.kind = SET, .to = to, .value = value, .size = size})); }

/* ---- streams and events */
API int cudaStreamCreateWithPriority(Stream **out, unsigned flags, int priority) {
  ENTER("cudaStreamCreateWithPriority"); (void)flags;
  Stream *stream = calloc(1, sizeof *stream); stream->is_live = 1; stream->priority = priority;
  streams[stream_count++] = stream; *out = stream; LEAVE(OK);
}
API int cudaStreamDestroy(Stream *stream) { ENTER("cudaStreamDestroy"); if (!stream->is_live) violation("a stream is destroyed twice"); drain(stream, stream->enqueued); stream->is_live = 0; LEAVE(OK); }
API int cudaStreamGetPriority(Stream *stream, int *out) { ENTER("cudaStreamGetPriority"); *out = stream->priority; LEAVE(OK); }
API int cudaStreamSynchronize(Stream *stream) {
  ENTER("cudaStreamSynchronize");
  if (captured(stream)) LEAVE(CAPTURE_UNSUPPORTED);
  drain(stream, stream->enqueued); LEAVE(sticky);
}
API int cudaDeviceSynchronize(void) { ENTER("cudaDeviceSynchronize"); drain_all(); LEAVE(sticky); }
API int cudaStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
  ENTER("cudaStreamWaitEvent"); (void)flags;
  if (!event->is_live) { violation("a stream waits for an event that was destroyed"); LEAVE(INVALID_HANDLE); }
  if (!event->stream || event->stream == stream) LEAVE(OK);
  LEAVE(push(stream, (Op){.kind = WAIT, .other = event->stream, .other_seq = event->seq}));
}
API int cudaEventCreateWithFlags(Event **out, unsigned flags) { ENTER("cudaEventCreateWithFlags"); (void)flags; *out = calloc(1, sizeof **out); (*out)->is_live = 1; live_events++; LEAVE(OK); }
API int cudaEventDestroy(Event *event) { ENTER("cudaEventDestroy"); if (!event->is_live) violation("an event is destroyed twice"); event->is_live = 0; live_events--; LEAVE(OK); }
API int cudaEventRecord(Event *event, Stream *stream) {
  ENTER("cudaEventRecord");
  if (!event->is_live) violation("an event that was destroyed is recorded");
  int code = push(stream, (Op){.kind = RECORD}); event->is_captured = stream->capture != NULL;
  if (!event->is_captured) { event->stream = stream; event->seq = stream->enqueued; }
  LEAVE(code);
}
API int cudaEventQuery(Event *event) {
  ENTER("cudaEventQuery");
  if (!event->is_live) { violation("an event that was destroyed is queried"); LEAVE(INVALID_HANDLE); }
  if (!event->stream || event->stream->done >= event->seq) LEAVE(sticky);
  if (!mode) step(event->stream);
  LEAVE(event->stream->done >= event->seq ? sticky : NOT_READY);
}
API int cudaEventSynchronize(Event *event) {
  ENTER("cudaEventSynchronize");
  if (!event->is_live) { violation("an event that was destroyed is waited for"); LEAVE(INVALID_HANDLE); }
  if (event->is_captured) LEAVE(CAPTURE_UNSUPPORTED);
  if (event->stream) drain(event->stream, event->seq);
  LEAVE(sticky);
}
API int cudaLaunchHostFunc(Stream *stream, void (*call)(void *), void *argument) { ENTER("cudaLaunchHostFunc"); LEAVE(push(stream, (Op){.kind = CALL, .call = call, .argument = argument})); }

/* ---- graphs */
API int cudaStreamBeginCapture(Stream *stream, int capture_mode) {
  ENTER("cudaStreamBeginCapture"); (void)capture_mode;
  if (stream->capture) LEAVE(INVALID);
  stream->capture = calloc(1, sizeof(Graph)); stream->capture->is_live = 1; stream->captor = pthread_self(); LEAVE(OK);
}
API int cudaStreamEndCapture(Stream *stream, Graph **out) {
  pthread_mutex_lock(&lock); Graph *graph = stream->capture; stream->capture = NULL; pthread_mutex_unlock(&lock); /* it ends, whatever it returns */
  ENTER("cudaStreamEndCapture");
  if (!graph) LEAVE(INVALID);
  *out = graph->is_invalid ? NULL : graph; LEAVE(graph->is_invalid ? CAPTURE_INVALIDATED : OK);
}
API int cudaGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long flags) {
  ENTER("cudaGraphInstantiateWithFlags"); (void)flags;
  Graph *made = calloc(1, sizeof *made); *made = *graph; made->is_live = 1; live_execs++; *out = made; LEAVE(OK);
}
API int cudaGraphLaunch(Graph *graph, Stream *stream) {
  ENTER("cudaGraphLaunch");
  if (!graph->is_live) { violation("a graph that was destroyed is launched"); LEAVE(INVALID_HANDLE); }
  for (Op *op = graph->head; op; op = op->next) push(stream, *op);
  LEAVE(OK);
}
API int cudaGraphExecDestroy(Graph *graph) { ENTER("cudaGraphExecDestroy"); if (!graph->is_live) violation("a graph is destroyed twice"); graph->is_live = 0; live_execs--; LEAVE(OK); }
API int cudaGraphDestroy(Graph *graph) { ENTER("cudaGraphDestroy"); if (!graph->is_live) violation("a template is destroyed twice"); graph->is_live = 0; LEAVE(OK); }

/* ---- devices and errors */
API int cudaRuntimeGetVersion(int *out) { *out = 12060; return OK; }
API int cudaDriverGetVersion(int *out) { *out = 12060; return OK; }
API int cudaGetDeviceCount(int *out) { *out = 1; return driver_state ? NO_DEVICE : OK; }
API int cudaSetDevice(int device) { return device == 0 ? OK : INVALID; }
API int cudaGetDevice(int *out) { *out = 0; return OK; }
API int cudaGetLastError(void) { return OK; }
API int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return OK; }
API int cudaDeviceGetAttribute(int *out, int attribute, int device) {
  ENTER("cudaDeviceGetAttribute"); (void)device;
  *out = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? integrated : attribute == 19 ? 1 : 0; LEAVE(OK);
}
static const char *name_of(int code) {
  switch (code) {
    case 0: return "cudaSuccess"; case 1: return "cudaErrorInvalidValue"; case 2: return "cudaErrorMemoryAllocation";
    case 35: return "cudaErrorInsufficientDriver"; case 100: return "cudaErrorNoDevice"; case 400: return "cudaErrorInvalidResourceHandle";
    case 600: return "cudaErrorNotReady"; case 700: return "cudaErrorIllegalAddress"; case 900: return "cudaErrorStreamCaptureUnsupported";
    case 901: return "cudaErrorStreamCaptureInvalidated"; default: return "cudaErrorUnknown";
  }
}
API const char *cudaGetErrorName(int code) { return name_of(code); }
API const char *cudaGetErrorString(int code) {
  return code == 2 ? "out of memory" : code == 700 ? "an illegal memory access was encountered" : code == 100 ? "no CUDA-capable device is detected" : "as its name says";
}
API int cuInit(unsigned flags) { (void)flags; return driver_state; }
API int cuDriverGetVersion(int *out) { *out = 12060; return OK; }
API int cuDeviceGetCount(int *out) { *out = driver_state == -1 ? 0 : 1; return OK; }
API int cuDeviceGet(int *out, int ordinal) { *out = ordinal; return ordinal ? 101 : OK; }
API int cuDeviceGetName(char *out, int size, int device) { (void)device; snprintf(out, size, "Fake Orin"); return OK; }
API int cuDeviceGetAttribute(int *out, int attribute, int device) { (void)device; *out = attribute == 75 ? 8 : attribute == 76 ? 7 : 0; return OK; }
API int cuGetErrorName(int code, const char **out) { *out = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN"; return OK; }
API int cuGetErrorString(int code, const char **out) { *out = code == 100 ? "no CUDA-capable device is detected" : "unknown error"; return OK; }

/* ---- for the tests */
API void fake_reset(void) { /* nothing of an earlier test: its streams are forgotten with what they still held */
  pthread_mutex_lock(&lock); drain_all();
  for (int i = 0; i < stream_count; i++) streams[i]->capture = NULL;
  for (int i = 0; i < block_count; i++) if (!blocks[i].is_live) free(blocks[i].base);
  int kept = 0;
  for (int i = 0; i < block_count; i++) if (blocks[i].is_live) blocks[kept++] = blocks[i];
  int alive = 0; /* a stream that was destroyed is forgotten, not freed: an event may still point to it */
  for (int i = 0; i < stream_count; i++) if (streams[i]->is_live) streams[alive++] = streams[i];
  stream_count = alive;
  block_count = kept; violation_count = sticky = mode = driver_state = integrated = pointer_device = 0; words[0] = 0; capacity = 1ULL << 32; peak_bytes = live_bytes;
  memset(copies, 0, sizeof copies); memset(copied, 0, sizeof copied); memset(planned, 0, sizeof planned); pageable = launches = call_count = 0;
  pthread_mutex_unlock(&lock);
}
API void fake_mode(int value) { mode = value; }
API void fake_driver(int value) { driver_state = value; }
API void fake_pointer_device(int value) { pointer_device = value; }
API void fake_integrated(int value) { integrated = value; }
API void fake_capacity(size_t value) { capacity = value; }
API void fake_fail(const char *name, int nth, int code) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < 32; i++) if (planned[i].nth <= 0) { snprintf(planned[i].name, 48, "%s", name); planned[i].nth = nth; planned[i].code = code; break; }
  pthread_mutex_unlock(&lock);
}
API void fake_break(int code) { sticky = code; }
API void fake_say(const char *text) { pthread_mutex_lock(&lock); violation("%s", text); pthread_mutex_unlock(&lock); }
API int fake_violations(char *out, int size) { pthread_mutex_lock(&lock); snprintf(out, size, "%s", words); int count = violation_count; pthread_mutex_unlock(&lock); return count; }
API void *fake_view(void *pointer, size_t size) { pthread_mutex_lock(&lock); void *at = view(pointer, size, "kernel"); pthread_mutex_unlock(&lock); return at; }
API int fake_is_capturing(Stream *stream) { return stream->capture != NULL; }
API int fake_is_idle(void) { int idle = 1; pthread_mutex_lock(&lock); for (int i = 0; i < stream_count; i++) idle &= streams[i]->head == NULL; pthread_mutex_unlock(&lock); return idle; }
API int fake_priority(Stream *stream) { return stream->priority; }
/* what a busy GPU does by itself: one operation of the nth stream */
API int fake_step(int nth) { pthread_mutex_lock(&lock); int did = stream_count && !streams[nth % stream_count]->capture ? step(streams[nth % stream_count]) : 0; pthread_mutex_unlock(&lock); return did; }
API long fake_count(const char *what) {
  pthread_mutex_lock(&lock);
  long found = !strcmp(what, "to_device") ? copies[1] : !strcmp(what, "to_host") ? copies[2] : !strcmp(what, "on_device") ? copies[3]
    : !strcmp(what, "to_device_bytes") ? copied[1] : !strcmp(what, "to_host_bytes") ? copied[2] : !strcmp(what, "on_device_bytes") ? copied[3]
    : !strcmp(what, "pageable") ? pageable : !strcmp(what, "launches") ? launches : !strcmp(what, "graphs") ? live_execs
    : !strcmp(what, "events") ? live_events : !strcmp(what, "bytes") ? (long)live_bytes : !strcmp(what, "peak_bytes") ? (long)peak_bytes
    : !strcmp(what, "calls") ? call_count : -1;
  if (!strcmp(what, "streams")) for (int i = found = 0; i < stream_count; i++) found += streams[i]->is_live;
  pthread_mutex_unlock(&lock); return found;
}
