from tests.support.matrix import main

if __name__ == "__main__":
    main()
