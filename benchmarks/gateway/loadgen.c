// A client under load: closed or open loop over HTTP/1.1, one thread; prints one JSON object.
//
//   loadgen -p PORT [-c CONNECTIONS] [-d SECONDS] [-w WARM_UP_S] [-r REQUESTS_A_SECOND] [-o] [-s]
//           [-k CHUNKS] [-D MICROSECONDS] [-m MODEL] [-K KEY] [-H HEADER] [-b PAD_BYTES]
//
// -s streams, CHUNKS a request with MICROSECONDS between them; without -s MICROSECONDS is what an
// answer takes. With -r requests start at their planned times and latency counts from those; with
// -o each connection carries one request, all begin at once, and the run is over with the last. The
// stamps "t<19 digits>" that backend.c puts into its chunks give the time of each on its way.
// "first" is the first request of each connection, from dialling on: the cost of a burst of them.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STAMP = 19, EVENTS = 1024, GRACE_S = 5 };

typedef enum { HEAD, COUNTED, SIZE, DATA, DATA_END, TRAILER } Part;

typedef struct {
    int fd, busy, fresh, keep, status, seen_byte, done_seen;
    Part part;
    char *head;
    size_t head_len, head_cap, left, sent;
    char line[64];
    int line_len;
    char stamp[STAMP + 1];
    int stamp_at;   // how much of `"t<digits>"` the last bytes were: 0 nothing, 1 `"`, 2 `"t` …
    int done_at;
    uint64_t began;
} Conn;

typedef struct {
    double *values;
    size_t n, cap;
} List;

static int epoll, port = 8000, streaming;
static char *request;
static size_t request_len;
static List latency, first_byte, transit, first;
static long done, failed, refused, incomplete, chunks, all_chunks, started, late;
static int measuring;
static char refusal[400];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void add(List *list, double value) {
    if (list->n == list->cap) {
        list->cap = list->cap ? list->cap * 2 : 65536;
        list->values = realloc(list->values, list->cap * sizeof *list->values);
    }
    list->values[list->n++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const List *sorted, double q) {
    return sorted->n ? sorted->values[(size_t)(q * (double)(sorted->n - 1) + 0.5)] : 0;
}

static double us(uint64_t since, uint64_t until) {
    return ((double)until - (double)since) / 1e3;
}

// --- one request -------------------------------------------------------------------------------

static int dial(Conn *c) {
    int on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        close(c->fd);
        c->fd = -1;
        return -1;
    }
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
    c->fresh = 1;
    return 0;
}

static void send_rest(Conn *c) {
    while (c->busy && c->sent < request_len) {
        ssize_t n = send(c->fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL);
        if (n < 0) return;
        c->sent += (size_t)n;
    }
}

static void start(Conn *c, uint64_t t) {
    if (c->fd < 0 && dial(c) < 0) {
        failed++;
        return;
    }
    c->busy = c->keep = 1;
    c->status = c->seen_byte = c->done_seen = c->stamp_at = c->done_at = c->line_len = 0;
    c->head_len = c->sent = 0;
    c->part = HEAD;
    c->began = t;
    started++;
    send_rest(c);
}

static void drop(Conn *c) {
    close(c->fd);
    c->fd = -1;
}

static void finish(Conn *c, int whole) {
    uint64_t t = now_ns();
    c->busy = 0;
    if (!whole) failed++;
    else if (c->status != 200) refused++;
    else if (streaming && !c->done_seen) incomplete++;
    else {
        if (measuring) {
            done++;
            add(&latency, us(c->began, t));
        }
        if (c->fresh) add(&first, us(c->began, t));
        c->fresh = 0;
    }
    if (!whole || !c->keep) drop(c);
}

// Body bytes: the stamps in them, and "[DONE]", also where a read cuts through one.
static void look(Conn *c, const char *bytes, size_t n) {
    static const char over[] = "[DONE]";
    uint64_t t = now_ns();
    if (!n) return;
    if (!c->seen_byte) {
        c->seen_byte = 1;
        if (measuring && c->status == 200) add(&first_byte, us(c->began, t));
    }
    if (c->status != 200 && !refusal[0]) snprintf(refusal, sizeof refusal, "%.*s", (int)n, bytes);
    for (const char *at = bytes, *end = bytes + n; at < end; at++) {
        if (!c->stamp_at && !c->done_at) {
            while (at < end && *at != '"' && *at != '[') at++;
            if (at == end) return;
        }
        if (*at == over[c->done_at]) c->done_seen |= ++c->done_at == sizeof over - 1;
        else c->done_at = *at == '[';
        if (c->done_at == sizeof over - 1) c->done_at = 0;
        if (c->stamp_at == 1 && *at == 't') c->stamp_at = 2;
        else if (c->stamp_at >= 2 && c->stamp_at < 2 + STAMP && *at >= '0' && *at <= '9')
            c->stamp[c->stamp_at++ - 2] = *at;
        else if (c->stamp_at == 2 + STAMP && *at == '"') {
            all_chunks++;
            if (measuring) {
                chunks++;
                add(&transit, us(strtoull(c->stamp, NULL, 10), t));
            }
            c->stamp_at = 0;
        } else c->stamp_at = *at == '"';
    }
}

static void read_head(Conn *c, const char *end) {
    size_t length = 0;
    int chunked = 0;
    c->status = atoi(c->head + 9);
    for (const char *line = c->head; line < end;) {
        const char *next = memmem(line, (size_t)(end - line) + 2, "\r\n", 2);
        if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
        if (!strncasecmp(line, "connection: close", 17)) c->keep = 0;
        line = next + 2;
    }
    c->part = chunked ? SIZE : COUNTED;
    c->left = length;
}

// Body bytes in their framing; 1 when the answer is over.
static int feed(Conn *c, const char *at, size_t n) {
    while (n) {
        if (c->part == COUNTED || c->part == DATA) {
            size_t k = n < c->left ? n : c->left;
            look(c, at, k);
            at += k;
            n -= k;
            c->left -= k;
            if (!c->left && c->part == COUNTED) return 1;
            if (!c->left) c->part = DATA_END;
            continue;
        }
        char letter = *at++;
        n--;
        if (letter != '\n') {
            if (letter != '\r' && c->line_len < (int)sizeof c->line - 1)
                c->line[c->line_len++] = letter;
            continue;
        }
        c->line[c->line_len] = 0;
        if (c->part == DATA_END) c->part = SIZE;
        else if (c->part == SIZE) {
            c->left = strtoul(c->line, NULL, 16);
            c->part = c->left ? DATA : TRAILER;
        } else if (!c->line_len) return 1;
        c->line_len = 0;
    }
    return c->part == COUNTED && !c->left;
}

static void receive(Conn *c, int ends) {
    static char bytes[256 << 10];
    while (c->fd >= 0) {
        ssize_t got = recv(c->fd, bytes, sizeof bytes, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            if (c->busy) finish(c, 0);
            else drop(c);
            return;
        }
        if (!c->busy) continue;
        const char *at = bytes;
        size_t n = (size_t)got;
        if (c->part == HEAD) {
            if (c->head_len + n + 1 > c->head_cap) {
                c->head_cap = (c->head_len + n + 1) * 2;
                c->head = realloc(c->head, c->head_cap);
            }
            memcpy(c->head + c->head_len, at, n);
            c->head_len += n;
            c->head[c->head_len] = 0;
            const char *end = memmem(c->head, c->head_len, "\r\n\r\n", 4);
            if (!end) continue;
            read_head(c, end);
            at = end + 4;
            n = c->head_len - (size_t)(at - c->head);
        }
        if (feed(c, at, n)) {
            finish(c, 1);
            return;
        }
        if ((size_t)got < sizeof bytes && !ends) return;  // all there was: epoll tells of more
    }
}

// --- the run -----------------------------------------------------------------------------------

static void write_request(const char *model, const char *key, const char *header, long count,
                          long delay, size_t pad) {
    static const char text[] = "lorem ipsum dolor ";
    char *filler = malloc(pad + 1), *body;
    for (size_t i = 0; i < pad; i++) filler[i] = text[i % (sizeof text - 1)];
    filler[pad] = 0;
    int length = asprintf(&body,
                          "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You "
                          "are a helpful assistant.\"},{\"role\":\"user\",\"content\":\"%s\"}],"
                          "\"max_tokens\":%ld,\"seed\":%ld,\"temperature\":0.7%s}",
                          model, filler, count, delay, streaming ? ",\"stream\":true" : "");
    request_len = (size_t)asprintf(&request,
                                   "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                                   "Authorization: Bearer %s\r\nContent-Type: application/json\r\n"
                                   "Accept: */*\r\n%s%sContent-Length: %d\r\n\r\n%s",
                                   port, key, header, *header ? "\r\n" : "", length, body);
    free(filler);
    free(body);
}

static void print_list(const char *name, List *list) {
    qsort(list->values, list->n, sizeof *list->values, ascending);
    static const struct {
        const char *name;
        double q;
    } told[] = {{"min", 0}, {"p50", 0.5}, {"p95", 0.95}, {"p99", 0.99}, {"max", 1}};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        printf("\"%s_%s\":%.1f,", name, told[i].name, quantile(list, told[i].q));
}

int main(int count, char **words) {
    int connections = 1, once = 0, option;
    double seconds = 3, warm = 0.5, rate = 0;
    long per_request = 64, delay = 0;
    size_t pad = 256;
    const char *model = "mock", *key = "sk-bench", *header = "";
    while ((option = getopt(count, words, "p:c:d:w:r:osk:D:m:K:H:b:")) > 0) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'c') connections = atoi(optarg);
        else if (option == 'd') seconds = atof(optarg);
        else if (option == 'w') warm = atof(optarg);
        else if (option == 'r') rate = atof(optarg);
        else if (option == 'o') once = 1;
        else if (option == 's') streaming = 1;
        else if (option == 'k') per_request = atol(optarg);
        else if (option == 'D') delay = atol(optarg);
        else if (option == 'm') model = optarg;
        else if (option == 'K') key = optarg;
        else if (option == 'H') header = optarg;
        else if (option == 'b') pad = strtoul(optarg, NULL, 10);
        else return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    write_request(model, key, header, per_request, delay, pad);
    epoll = epoll_create1(0);
    Conn *all = calloc((size_t)connections, sizeof *all);
    for (int i = 0; i < connections; i++) all[i].fd = -1;
    static struct epoll_event events[EVENTS];
    uint64_t began = now_ns(), measured = began + (uint64_t)(warm * 1e9);
    uint64_t over = measured + (uint64_t)(seconds * 1e9), planned = began;
    uint64_t gap = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    for (;;) {
        uint64_t t = now_ns();
        int stop = t >= over || (once && started), busy = 0;
        measuring = once || (t >= measured && !stop);
        for (int i = 0; i < connections; i++) {
            if (!all[i].busy && !stop && !gap) start(&all[i], now_ns());
            busy += all[i].busy;
        }
        if (stop && (!busy || t > over + GRACE_S * 1000000000ull)) break;
        for (int i = 0; gap && !stop && planned <= t; planned += gap) {
            while (i < connections && all[i].busy) i++;
            if (i == connections) {
                late++;
                break;
            }
            start(&all[i], planned);
        }
        uint64_t wait = gap && !stop ? (planned > t ? planned - t : 0) : 50000000ull;
        struct timespec patience = {(time_t)(wait / 1000000000ull), (long)(wait % 1000000000ull)};
        int n = epoll_pwait2(epoll, events, EVENTS, &patience, NULL);
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT) send_rest(c);
            if (c->fd >= 0 && events[i].events & ~(uint32_t)EPOLLOUT)
                receive(c, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
            if (!c->busy && !gap && !once && now_ns() < over) start(c, now_ns());
        }
    }
    for (int i = 0; i < connections; i++) failed += all[i].busy;
    for (char *at = refusal; *at; at++)
        if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') *at = '\'';
    printf("{\"done\":%ld,\"failed\":%ld,\"refused\":%ld,\"incomplete\":%ld,\"started\":%ld,"
           "\"late\":%ld,\"rps\":%.1f,\"chunks\":%ld,\"chunks_s\":%.1f,",
           done, failed, refused, incomplete, started, late, (double)done / seconds, all_chunks,
           (double)chunks / seconds);
    print_list("latency", &latency);
    print_list("first_byte", &first_byte);
    print_list("transit", &transit);
    print_list("first", &first);
    printf("\"refusal\":\"%s\"}\n", refusal);
}
