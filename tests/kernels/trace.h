/* The path that a function takes, instruction by instruction: equal for different secrets, it depends
 * on none of them. A child is stepped through, from its first stop to its second. */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static void run_between_stops(void (*run)(void *), void *argument)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
        _exit(3);
    raise(SIGSTOP);
    run(argument);
    raise(SIGSTOP);
    _exit(0);
}

/* A hash of all places. Exits with 3 if there are less than `fewest`: nothing was traced. */
static uint64_t trace(void (*run)(void *), void *argument, long fewest)
{
    uint64_t hash = 0;
    long steps = 0;
    int status;
    pid_t child = fork();
    if (child == 0)
        run_between_stops(run, argument);
    for (int stops = 0; waitpid(child, &status, 0) == child && !WIFEXITED(status); steps++) {
        struct user_regs_struct registers;
        stops += WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
        if (stops == 2 || ptrace(PTRACE_GETREGS, child, NULL, &registers))
            break;
        hash = (hash ^ registers.rip) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    if (steps < fewest)
        exit(3);
    return hash;
}
