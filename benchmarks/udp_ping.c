/* Round-trip times of small UDP datagrams, without the jitter of an interpreter.
 *
 *   udp_ping echo ADDRESS PORT
 *   udp_ping ping ADDRESS PORT COUNT INTERVAL_MICROSECONDS SIZE
 *
 * `ping` sends at fixed times, one datagram on its way at a time, and prints the nanoseconds of each
 * answer on a line, or `lost` after half a second. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { MAX = 1500, SECOND = 1000000000 };

static int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void sleep_until(int64_t when)
{
    struct timespec t = {when / SECOND, when % SECOND};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int echo(int fd)
{
    char data[MAX];
    struct sockaddr_in from;

    for (;;) {
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &size);

        if (n > 0)
            sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&from, size);
    }
}

static void ping_once(int fd, uint32_t number, size_t size)
{
    char data[MAX] = {0};
    uint32_t answer;
    int64_t sent = now();

    memcpy(data, &number, sizeof number);
    send(fd, data, size, 0);
    for (;;) {
        if (recv(fd, data, sizeof data, 0) < (ssize_t)sizeof answer) {
            puts("lost");
            return;
        }
        memcpy(&answer, data, sizeof answer);
        if (answer == number)
            break;
    }
    printf("%lld\n", (long long)(now() - sent));
}

static int ping(int fd, uint32_t count, int64_t interval, size_t size)
{
    struct timeval patience = {0, 500000};
    int64_t next = now();

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (uint32_t number = 0; number < count; number++) {
        int64_t late = now() - next;

        if (late > 0)
            next += late / interval * interval;
        next += interval;
        sleep_until(next);
        ping_once(fd, number, size);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    if (argc < 4 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
        return 2;
    address.sin_port = htons((uint16_t)atoi(argv[3]));
    if (strcmp(argv[1], "echo") == 0 && argc == 4)
        return bind(fd, (struct sockaddr *)&address, sizeof address) ? 1 : echo(fd);
    if (argc != 7 || atoi(argv[6]) < 4 || atoi(argv[6]) > MAX || atoll(argv[5]) < 1)
        return 2;
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        return 1;
    return ping(fd, (uint32_t)atoi(argv[4]), atoll(argv[5]) * 1000, (size_t)atoi(argv[6]));
}
