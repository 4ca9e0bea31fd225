// A fake `vllm serve`: OpenAI-shaped answers over HTTP/1.1, one thread, as fast as a socket goes.
//
//   backend -p PORT [-m MODEL] [-s SLOTS] [-f MICROSECONDS] [-e]
//
// What a request wants stands in its body: "stream", "max_tokens" (chunks, 64 if absent), "seed"
// (microseconds before a unary answer, or between two chunks), "include_usage", and "user". A chunk
// says "t" and the monotonic nanoseconds at which it was made, or, where the request names a user,
// "USER:INDEX ", which lets a client check every byte. At most SLOTS requests run, the others wait
// in order, as in an engine, and the first chunk takes -f longer. -e writes "USER completed|aborted NANOSECONDS CHUNKS" for each end.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { USER_MAX = 64, EVENTS = 512, HELD_MAX = 256 << 10 };

typedef enum { IDLE, WAITING, UNARY, STREAM } State;

typedef struct Conn {
    int fd;
    State state;
    char *in, *out;
    size_t in_len, in_cap, out_off, out_len, out_cap;
    long chunks, made;
    uint64_t delay, due;
    int heap;              // place in the heap of what is due, -1 for none
    int usage, writable_wanted, wants_stream;
    char user[USER_MAX];
    struct Conn *next;     // of those that wait for a slot
    struct Conn *previous;
} Conn;

static const char *model = "mock";
static long slots = 1L << 30;
static uint64_t prefill;
static int tell_ends, epoll, timer;
static uint64_t requests, streams, aborted;
static long running, waiting, most_running;
static Conn **heap;
static int heap_len, heap_cap;
static Conn *first_waiting, *last_waiting;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// --- what is due, soonest first ----------------------------------------------------------------

static void heap_swap(int a, int b) {
    Conn *one = heap[a];
    heap[a] = heap[b];
    heap[b] = one;
    heap[a]->heap = a;
    heap[b]->heap = b;
}

static void heap_up(int i) {
    for (; i > 0 && heap[(i - 1) / 2]->due > heap[i]->due; i = (i - 1) / 2)
        heap_swap(i, (i - 1) / 2);
}

static void heap_down(int i) {
    for (;;) {
        int least = i, left = 2 * i + 1, right = left + 1;
        if (left < heap_len && heap[left]->due < heap[least]->due) least = left;
        if (right < heap_len && heap[right]->due < heap[least]->due) least = right;
        if (least == i) return;
        heap_swap(i, least);
        i = least;
    }
}

static void heap_add(Conn *c) {
    if (heap_len == heap_cap) {
        heap_cap = heap_cap ? heap_cap * 2 : 64;
        heap = realloc(heap, (size_t)heap_cap * sizeof *heap);
    }
    heap[heap_len] = c;
    c->heap = heap_len;
    heap_up(heap_len++);
}

static void heap_remove(Conn *c) {
    int i = c->heap;
    if (i < 0) return;
    if (i != --heap_len) {
        heap[i] = heap[heap_len];
        heap[i]->heap = i;
        heap_up(i);
        heap_down(heap[i]->heap);
    }
    c->heap = -1;
}

// --- writing -----------------------------------------------------------------------------------

static void put(Conn *c, const char *bytes, size_t n) {
    if (c->out_off == c->out_len) c->out_off = c->out_len = 0;
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, bytes, n);
    c->out_len += n;
}

static void watch(Conn *c, int writable) {
    if (c->writable_wanted == writable) return;
    c->writable_wanted = writable;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (writable ? EPOLLOUT : 0u),
                            .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
}

// 0 as long as the connection lives; what does not fit now goes when the socket is writable.
static int flush(Conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) return -1;
            watch(c, 1);
            return 0;
        }
        c->out_off += (size_t)n;
    }
    watch(c, 0);
    return 0;
}

static void answer(Conn *c, int status, const char *type, const char *body, size_t n) {
    char head[256];
    int k = snprintf(head, sizeof head,
                     "HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", status,
                     status == 200 ? "OK" : "Error", type, n);
    put(c, head, (size_t)k);
    put(c, body, n);
}

static void answer_json(Conn *c, const char *format, ...) {
    char body[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(body, sizeof body, format, args);
    va_end(args);
    answer(c, 200, "application/json", body, (size_t)n);
}

static void put_chunk(Conn *c, const char *data, int n) {
    char size[10] = "........\r\n", *at = size + 8;
    for (unsigned left = (unsigned)n; left; left >>= 4) *--at = "0123456789abcdef"[left & 15];
    put(c, at, (size_t)(size + 10 - at));
    put(c, data, (size_t)n);
    put(c, "\r\n", 2);
}

// --- the answers of an engine ------------------------------------------------------------------

static const char ID[] = "chatcmpl-0123456789abcdef0123456789abcdef";

static int content_of(Conn *c, long index, char *into, size_t size) {
    if (c->user[0]) return snprintf(into, size, "%s:%ld ", c->user, index);
    uint64_t t = now_ns();
    for (int i = 19; i > 0; i--, t /= 10) into[i] = (char)('0' + t % 10);
    into[0] = 't';
    into[20] = 0;
    return 20;
}

static void ended(Conn *c, const char *how) {
    if (c->state == WAITING) {
        waiting--;
        *(c->previous ? &c->previous->next : &first_waiting) = c->next;
        *(c->next ? &c->next->previous : &last_waiting) = c->previous;
    } else {
        running--;
    }
    if (how[0] == 'a') aborted++;
    if (tell_ends) {
        printf("%s %s %llu %ld\n", c->user[0] ? c->user : "-", how, (unsigned long long)now_ns(),
               c->made);
        fflush(stdout);
    }
    c->state = IDLE;
}

static void answer_at_once(Conn *c) {
    static const char filler[] =
        "The quick brown fox jumps over the lazy dog while the gateway forwards bytes. ";
    size_t room = 1024 + (c->user[0] ? (size_t)c->chunks * (USER_MAX + 24) : 700);
    char *body = malloc(room);
    int n = snprintf(body, room,
                     "{\"id\":\"%s\",\"object\":\"chat.completion\",\"created\":1763600000,"
                     "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
                     "\"assistant\",\"content\":\"",
                     ID, model);
    if (c->user[0])
        for (long i = 0; i < c->chunks; i++)
            n += content_of(c, i, body + n, room - (size_t)n);
    else
        for (int i = 0; i < 650; i++) body[n++] = filler[(size_t)i % (sizeof filler - 1)];
    n += snprintf(body + n, room - (size_t)n,
                  "\",\"refusal\":null,\"tool_calls\":[]},\"logprobs\":null,\"finish_reason\":"
                  "\"stop\",\"stop_reason\":null}],\"system_fingerprint\":\"t%019llu\",\"usage\":{"
                  "\"prompt_tokens\":35,\"total_tokens\":%ld,\"completion_tokens\":%ld,"
                  "\"prompt_tokens_details\":null},\"prompt_logprobs\":null}",
                  (unsigned long long)now_ns(), 35 + c->chunks, c->chunks);
    answer(c, 200, "application/json", body, (size_t)n);
    free(body);
    c->made = c->chunks;
    ended(c, "completed");
}

// Put together by hand: a fake that formats each chunk anew costs more than what is measured.
static void make_chunk(Conn *c) {
    static char start[256];
    static int start_len;
    char data[512];
    int last = c->made + 1 == c->chunks;
    if (!start_len)
        start_len = snprintf(start, sizeof start,
                             "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\","
                             "\"created\":1763600000,\"model\":\"%.64s\",\"choices\":[{"
                             "\"index\":0,\"delta\":{\"content\":\"",
                             ID, model);
    memcpy(data, start, (size_t)start_len);
    int n = start_len + content_of(c, c->made, data + start_len, USER_MAX + 32);
    const char *end = last ? "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n"
                           : "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
    size_t rest = strlen(end);
    memcpy(data + n, end, rest);
    n += (int)rest;
    put_chunk(c, data, n);
    c->made++;
    if (!last) return;
    if (c->usage) {
        n = snprintf(data, sizeof data,
                     "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":"
                     "1763600000,\"model\":\"%s\",\"choices\":[],\"usage\":{\"prompt_tokens\":35,"
                     "\"total_tokens\":%ld,\"completion_tokens\":%ld}}\n\n",
                     ID, model, 35 + c->chunks, c->chunks);
        put_chunk(c, data, n);
    }
    put_chunk(c, "data: [DONE]\n\n", 14);
    put(c, "0\r\n\r\n", 5);
    ended(c, "completed");
}

// Make what is due at `t`; a client that does not read gets no more than it can hold.
static int advance(Conn *c, uint64_t t) {
    if (c->state == UNARY) {
        answer_at_once(c);
        return flush(c);
    }
    while (c->state == STREAM && (c->delay == 0 || c->due <= t)) {
        if (c->out_len - c->out_off > HELD_MAX) return 0;
        make_chunk(c);
        if (flush(c) < 0) return -1;
        c->due += c->delay;
    }
    if (c->state == STREAM) heap_add(c);
    return 0;
}

static int begin(Conn *c) {
    running++;
    if (running > most_running) most_running = running;
    c->due = now_ns() + prefill;
    if (c->state == UNARY) {
        if (!c->delay && !prefill) return advance(c, c->due);
        c->due += c->delay;
        heap_add(c);
        return 0;
    }
    static const char head[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    put(c, head, sizeof head - 1);
    if (!prefill) return advance(c, c->due);
    heap_add(c);
    return flush(c);
}

// --- requests ----------------------------------------------------------------------------------

// What stands behind a key, wherever it is in the body.
static const char *after(const char *body, size_t n, const char *key) {
    const char *at = body, *end = body + n;
    while ((at = memmem(at, (size_t)(end - at), key, strlen(key)))) {
        at += strlen(key);
        while (at < end && *at == ' ') at++;
        if (at == end || *at++ != ':') continue;  // a value that looks like the key
        while (at < end && *at == ' ') at++;
        return at < end ? at : NULL;
    }
    return NULL;
}

static long number(const char *body, size_t n, const char *key, long otherwise) {
    const char *at = after(body, n, key);
    return at && (*at == '-' || (*at >= '0' && *at <= '9')) ? strtol(at, NULL, 10) : otherwise;
}

static int generate(Conn *c, const char *body, size_t n) {
    const char *stream = after(body, n, "\"stream\""), *user = after(body, n, "\"user\"");
    size_t length = 0;
    requests++;
    c->chunks = number(body, n, "\"max_tokens\"", number(body, n, "\"max_completion_tokens\"", 64));
    if (c->chunks < 1 || c->chunks > 100000) c->chunks = 64;
    long delay = number(body, n, "\"seed\"", 0);
    c->delay = delay > 0 ? (uint64_t)delay * 1000 : 0;
    c->made = 0;
    const char *usage = after(body, n, "\"include_usage\"");
    c->usage = usage && *usage == 't';
    if (user && *user == '"')
        for (user++; length < USER_MAX - 1 && user + length < body + n; length++) {
            char letter = user[length];
            if (letter == '"' || letter == '\\' || letter < ' ') break;
            c->user[length] = letter;
        }
    c->user[length] = 0;
    c->state = stream && body + n - stream >= 4 && !memcmp(stream, "true", 4) ? STREAM : UNARY;
    streams += c->state == STREAM;
    if (running < slots && !first_waiting) return begin(c);
    c->wants_stream = c->state == STREAM;
    c->state = WAITING;
    waiting++;
    c->next = NULL;
    c->previous = last_waiting;
    *(last_waiting ? &last_waiting->next : &first_waiting) = c;
    last_waiting = c;
    return 0;
}

static int is(const char *path, size_t n, const char *name) {
    return n == strlen(name) && !memcmp(path, name, n);
}

static int handle(Conn *c, const char *head, size_t head_len, const char *body, size_t n) {
    const char *path = memchr(head, ' ', head_len);
    if (!path) return -1;
    path++;
    const char *end = memchr(path, ' ', head_len - (size_t)(path - head));
    if (!end) return -1;
    size_t length = (size_t)(end - path);
    const char *query = memchr(path, '?', length);
    if (query) length = (size_t)(query - path);
    if (is(path, length, "/v1/chat/completions") || is(path, length, "/v1/completions"))
        return generate(c, body, n);
    if (is(path, length, "/v1/models"))
        answer_json(c,
                    "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":"
                    "1763600000,\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,"
                    "\"max_model_len\":32768}]}",
                    model, model);
    else if (is(path, length, "/health") || is(path, length, "/ping"))
        answer_json(c, "%s", "");
    else if (is(path, length, "/version"))
        answer_json(c, "{\"version\":\"0.32.0\"}");
    else if (is(path, length, "/metrics")) {
        char text[1024];
        int k = snprintf(text, sizeof text,
                         "vllm:num_requests_running{model_name=\"%s\"} %ld\n"
                         "vllm:num_requests_waiting{model_name=\"%s\"} %ld\n"
                         "vllm:kv_cache_usage_perc{model_name=\"%s\"} 0.1\n"
                         "fake_requests_total %llu\nfake_streams_total %llu\n"
                         "fake_aborted_total %llu\nfake_running_most %ld\n",
                         model, running, model, waiting, model, (unsigned long long)requests,
                         (unsigned long long)streams, (unsigned long long)aborted, most_running);
        answer(c, 200, "text/plain; version=0.0.4", text, (size_t)k);
    } else if (!memcmp(head, "GET", 3))
        answer_json(c,
                    "{\"model_path\":\"%s\",\"served_model_name\":\"%s\",\"tokenizer_path\":\"%s\","
                    "\"is_generation\":true,\"dp_size\":1,\"tp_size\":1,\"version\":\"0.5\"}",
                    model, model, model);
    else
        answer_json(c,
                    "{\"object\":\"list\",\"model\":\"%s\",\"data\":[],\"usage\":{"
                    "\"prompt_tokens\":35,\"total_tokens\":35}}",
                    model);
    return flush(c);
}

// The body of a chunked request, taken apart in place; -1 while it is not all there.
static ssize_t unchunked(char *at, char *end, char **rest) {
    char *into = at;
    ssize_t total = 0;
    while (at < end) {
        char *line = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!line) return -1;
        size_t n = strtoul(at, NULL, 16);
        if ((size_t)(end - line - 2) < n + 2) return -1;
        memmove(into, line + 2, n);
        into += n;
        total += (ssize_t)n;
        at = line + 2 + n + 2;
        if (!n) {
            *rest = at;
            return total;
        }
    }
    return -1;
}

// Carry out the requests that have arrived whole, one after the other.
static int take(Conn *c) {
    while (c->state == IDLE && c->in_len) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) return 0;
        size_t head = (size_t)(end - c->in) + 4, length = 0;
        int chunked = 0;
        for (char *line = c->in; line < end;) {
            char *next = memmem(line, (size_t)(end - line) + 2, "\r\n", 2);
            if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
            if (!strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
            line = next + 2;
        }
        char *rest = c->in + head + length;
        if (chunked) {
            char *copy = malloc(c->in_len - head + 1);
            memcpy(copy, c->in + head, c->in_len - head);
            char *tail = NULL;
            ssize_t n = unchunked(copy, copy + (c->in_len - head), &tail);
            int bad = n >= 0 && handle(c, c->in, head, copy, (size_t)n) < 0;
            size_t used = n >= 0 ? head + (size_t)(tail - copy) : 0;
            free(copy);
            if (bad) return -1;
            if (n < 0) return 0;
            rest = c->in + used;
        } else {
            if (c->in_len < head + length) return 0;
            if (handle(c, c->in, head, c->in + head, length) < 0) return -1;
        }
        c->in_len -= (size_t)(rest - c->in);
        memmove(c->in, rest, c->in_len);
    }
    return 0;
}

// --- the loop ----------------------------------------------------------------------------------

static void hang_up(Conn *c) {
    heap_remove(c);
    if (c->state != IDLE) ended(c, "aborted");
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void accept_all(int listener) {
    int on = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->heap = -1;
        c->in_cap = 16384;
        c->in = malloc(c->in_cap);
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

// -1 when the other side is gone.
static int read_all(Conn *c) {
    for (;;) {
        if (c->in_len == c->in_cap) c->in = realloc(c->in, c->in_cap *= 2);
        size_t room = c->in_cap - c->in_len;
        ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return -1;
        if (n < 0) return 0;
        c->in_len += (size_t)n;
        if ((size_t)n < room) return 0;
    }
}

static int serve_event(Conn *c, uint32_t events) {
    if (events & EPOLLOUT) {
        if (flush(c) < 0) return -1;
        if (c->state == STREAM && c->heap < 0 && advance(c, now_ns()) < 0) return -1;
        if (c->state == IDLE && take(c) < 0) return -1;
    }
    if (events & EPOLLIN && (read_all(c) < 0 || take(c) < 0)) return -1;
    return events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP) ? -1 : 0;
}

static void fill_slots(void) {
    while (first_waiting && running < slots) {
        Conn *c = first_waiting;
        first_waiting = c->next;
        *(first_waiting ? &first_waiting->previous : &last_waiting) = NULL;
        waiting--;
        c->state = c->wants_stream ? STREAM : UNARY;
        if (begin(c) < 0 || (c->state == IDLE && take(c) < 0)) hang_up(c);
    }
}

static int listen_at(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, 4096)) {
        perror("backend");
        exit(1);
    }
    return fd;
}

int main(int count, char **words) {
    int port = 9001, option;
    while ((option = getopt(count, words, "p:m:s:f:e")) > 0) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'm') model = optarg;
        else if (option == 's') slots = atol(optarg);
        else if (option == 'f') prefill = strtoull(optarg, NULL, 10) * 1000;
        else if (option == 'e') tell_ends = 1;
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_at(port);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
    e.data.ptr = &timer;
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &e);
    static struct epoll_event events[EVENTS];
    for (;;) {
        if (heap_len) {
            uint64_t due = heap[0]->due ? heap[0]->due : 1;
            struct itimerspec at = {.it_value = {(time_t)(due / 1000000000ull),
                                                 (long)(due % 1000000000ull)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            void *whose = events[i].data.ptr;
            uint64_t rings;
            if (whose == &listener) accept_all(listener);
            else if (whose == &timer) {
                if (read(timer, &rings, sizeof rings) < 0) continue;
            } else if (serve_event(whose, events[i].events) < 0) hang_up(whose);
        }
        uint64_t t = now_ns();
        while (heap_len && heap[0]->due <= t) {
            Conn *c = heap[0];
            heap_remove(c);
            if (advance(c, t) < 0 || (c->state == IDLE && take(c) < 0)) hang_up(c);
        }
        fill_slots();
    }
}
