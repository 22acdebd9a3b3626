#include "terminal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#define TTY_GROUP 5 /* as the distributions number it, and as /dev/pts is mounted */

static void speak_utf8(int terminal)
{
    struct termios settings;
    if (tcgetattr(terminal, &settings) != 0)
        return;
    settings.c_iflag |= IUTF8;
    tcsetattr(terminal, TCSANOW, &settings);
}

bool terminal_open(struct end *master, int *slave, bool *bell)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    *master = (struct end){.fd = fd, .bell = bell};
    int locked = 0;
    if (ioctl(fd, TIOCSPTLCK, &locked) != 0)
        return false;
    *slave = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*slave < 0)
        return false;
    speak_utf8(*slave);
    return end_watch(master, EPOLLIN | EPOLLOUT);
}

bool terminal_resize(int master, uint16_t rows, uint16_t columns)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    return ioctl(master, TIOCSWINSZ, &size) == 0;
}

bool terminal_size(int master, uint16_t *rows, uint16_t *columns)
{
    struct winsize size;
    if (ioctl(master, TIOCGWINSZ, &size) != 0)
        return false;
    *rows = size.ws_row;
    *columns = size.ws_col;
    return true;
}

bool terminal_take(int slave, uid_t user)
{
    if (geteuid() == 0 && (fchown(slave, user, TTY_GROUP) != 0 || fchmod(slave, 0620) != 0))
        return false;
    return ioctl(slave, TIOCSCTTY, 0) == 0;
}
